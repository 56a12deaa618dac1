"""From one record of a public format to requests and probes: a method for each format, and the parts that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hybrid.evaluation.fields import Row, aligned, fold, groups, listed, objects, stated, templated, text, texts
from hybrid.evaluation.records import Kind, Probe, Record
from hybrid.request import Request
from stores.errors import FormatError

ALIASING = "Subject_Aliasing"
"""The one portability group that asks for the fact itself, under another name: it is in scope."""

INSIDE = frozenset(
    "the a an this that these those there it he she they his her its their in on at by for from no not all some any most more only both either neither during after before "
    "since until when while as to of under over with without despite at".split()
)
"""Words that a sentence begins with and that are written small within one."""


class Reader:
    """Reads the records of one file, and counts what was left out."""

    def __init__(self, *, hops: bool = True):
        self.hops = hops
        self.unanswerable = self.guessed = 0

    # -- parts ---------------------------------------------------------------------------------

    def request(self, row: Row, prompt: str, target: str, old: Sequence[str]) -> Request:
        """The edit of a record with a prompt and a subject."""
        subject, guessed = aligned(prompt, text(row, "subject"))
        self.guessed += guessed
        return templated(prompt, subject, target, target_true=old[0] if old else None)

    def asked(self, request: Request, rephrased: Sequence[str], old: Sequence[str]) -> list[Probe]:
        """The edit's own prompt, and the same in other words."""
        before, _, after = request.prompt.partition("{}")
        answers = (request.target_new,)
        versus = (request.target_new, old[0]) if old and old[0] != request.target_new else None
        first = Probe(kind="efficacy", query=before + request.subject + after, answers=answers, place="in_scope", versus=versus, fact=0)
        return [first, *(Probe(kind="generalization", query=q, answers=answers, place="in_scope", versus=versus, fact=0) for q in rephrased)]

    def portable(self, row: Row, target: str) -> list[Probe]:
        """Consequences of the edit, by group; where the subject is asked for by another name, the edit's own target is right however the data writes it."""
        found = []
        for group, item in groups(row, "portability"):
            answers = texts(item.get("ground_truth"), f"portability.{group}.ground_truth")
            if answers:
                place, fact = ("in_scope", 0) if group == ALIASING else ("", None)
                answers = tuple(dict.fromkeys((*answers, target))) if group == ALIASING else answers
                found.append(Probe(kind="portability", query=text(item, "prompt"), answers=answers, group=group, place=place, fact=fact))
            else:
                self.unanswerable += 1
        return found

    def beside(self, row: Row, request: Request) -> list[Probe]:
        """Queries that the edit must leave alone, by group.

        Some files have the edit's own question in other words among them: the answer that the data wants is the one that the edit replaced. Such
        queries count as the data has them, and are the slice `disputed`, so that one can see what they do to a score.
        """
        old = {answer.casefold() for answer in texts(row.get("ground_truth"), "ground_truth")}
        found = []
        for group, item in groups(row, "locality"):
            probe = outside(text(item, "prompt"), request, group)
            wanted = {answer.casefold() for answer in texts(item.get("ground_truth"), f"locality.{group}.ground_truth")}
            names_new = request.target_new.casefold() in probe.query.casefold()  # "..., which is not X, is" asks for another value, rightly
            disputed = bool(wanted & old) and probe.place == "same_subject" and not names_new
            found.append(replace(probe, note="disputed" if disputed else "undisputed"))
        return found

    # -- formats -------------------------------------------------------------------------------

    def counterfact(self, row: Row) -> Record:
        """The ROME paper's records."""
        rewrite = row.get("requested_rewrite")
        if not isinstance(rewrite, dict):
            raise FormatError("the field 'requested_rewrite' is missing or no object")
        new, true = (text(objects(rewrite.get(name), name)[0] if rewrite.get(name) else {}, "str") for name in ("target_new", "target_true"))
        request = self.request(rewrite, text(rewrite, "prompt"), new, (true,))
        near = [each if isinstance(each, str) else text(each, "prompt") for each in listed(row, "neighborhood_prompts")]
        probes = [
            *self.asked(request, texts(listed(row, "paraphrase_prompts"), "paraphrase_prompts"), (true,)),
            *(Probe(kind="locality", query=fold(q), place="neighborhood", group="neighborhood", versus=(true, new)) for q in near),
            *self.beside(row, request),
        ]
        return record([request], probes, texts(listed(row, "generation_prompts"), "generation_prompts"))

    def flat(self, row: Row) -> Record:
        """`prompt`, `subject`, `target_new`, `ground_truth`, `rephrase_prompt`, `locality_prompt`, `locality_ground_truth`."""
        old = texts(row.get("ground_truth"), "ground_truth")
        request = self.request(row, text(row, "prompt"), text(row, "target_new"), old)
        true = texts(row.get("locality_ground_truth"), "locality_ground_truth")
        versus = (true[0], request.target_new) if true and true[0] != request.target_new else None
        near = [Probe(kind="locality", query=q, place="neighborhood", group="neighborhood", versus=versus) for q in texts(row["locality_prompt"], "locality_prompt")] \
            if row.get("locality_prompt") else []  # fmt: skip
        return record(
            [request], [*self.asked(request, (text(row, "rephrase_prompt"),), old), *near, *self.portable(row, request.target_new), *self.beside(row, request)]
        )

    def knowedit(self, row: Row) -> Record:
        """`prompt`, `subject`, `target_new`, and groups under `portability` and `locality`; KnowEdit has no rephrasing, zsRE has one."""
        old = texts(row.get("ground_truth"), "ground_truth")
        request = self.request(row, text(row, "prompt"), text(row, "target_new"), old)
        rephrased = texts(row.get("rephrase_prompt") or row.get("rephrase"), "rephrase_prompt")
        return record([request], [*self.asked(request, rephrased, old), *self.portable(row, request.target_new), *self.beside(row, request)])

    def zsre(self, row: Row) -> Record:
        """KnowEdit's shape; the rephrasing is required."""
        text(row, "rephrase_prompt")
        return self.knowedit(row)

    def zsre_mend(self, row: Row) -> Record:
        """`src`, `rephrase`, `subject`, `alt`, `answers`, `loc`, `loc_ans`, `portability`."""
        old = texts(row.get("answers"), "answers")
        request = self.request(row, text(row, "src"), text(row, "alt"), old)
        loc = text(row, "loc").removeprefix("nq question: ")
        probes = [*self.asked(request, (text(row, "rephrase"),), old), outside(loc if loc.endswith("?") else f"{loc}?", request, "loc", near=False)]
        hop = row.get("portability")
        if isinstance(hop, dict) and "New Question" in hop:  # as EasyEdit adds it
            answers = texts(hop.get("New Answer"), "portability.New Answer")
            self.unanswerable += not answers
            probes += [Probe(kind="portability", query=text(hop, "New Question"), answers=answers, group="Reasoning")] if answers else []
        else:
            probes += self.portable(row, request.target_new)
        return record([request], probes)

    def qaedit(self, row: Row) -> Record:
        """`prompt`, `target`, `subject`, `rephrase`, `locality` [{`loc`, `loc_ans`}]."""
        request = self.request(row, text(row, "prompt"), text(row, "target"), ())
        beside = [outside(text(item, "loc"), request, "loc", near=False) for item in objects(row.get("locality") or [], "locality")]
        return record([request], [*self.asked(request, texts(row.get("rephrase"), "rephrase"), ()), *beside])

    def mquake(self, row: Row) -> Record:
        """Chains: every edit, the single questions, and the questions over several hops."""
        hops = objects(row.get("new_single_hops") or [], "new_single_hops")
        rewrites = objects(row.get("requested_rewrite"), "requested_rewrite")
        requests, probes = [], []
        for edit in rewrites:
            new, old = (text(objects(edit.get(name), name)[0] if edit.get(name) else {}, "str") for name in ("target_new", "target_true"))
            requests.append(templated(text(edit, "prompt"), text(edit, "subject"), new, target_true=old))
            hop = next((h for h in hops if h.get("question") == edit.get("question")), {})
            answers = texts([new, hop.get("answer"), hop.get("answer_alias")], "answer")
            own, fact = requests[-1].prompt.replace("{}", requests[-1].subject), len(requests) - 1
            probes.append(Probe(kind="efficacy", query=own, answers=answers, place="in_scope", versus=(new, old) if new != old else None, fact=fact))
            if edit.get("question"):
                probes.append(Probe(kind="generalization", query=text(edit, "question"), answers=answers, group="single_hop", place="in_scope", fact=fact))
        if self.hops:  # what the model does not know is given as facts
            requests += unedited(row, hops, {fold(str(edit.get("question"))) for edit in rewrites})
        answers = texts([text(row, "new_answer"), row.get("new_answer_alias")], "new_answer")
        questions = texts(listed(row, "questions"), "questions")
        if not questions:
            raise FormatError("the field 'questions' is missing or empty")
        probes += [Probe(kind="portability", query=q, answers=answers, group=f"{max(len(hops), len(rewrites))}_hops") for q in questions]
        return record(requests, probes)

    def cf_hard(self, row: Row) -> Record:
        """CounterFact-Hard: `edit_statement`, `subject_name`, `edit_scope` [[question, answer]], `unrelated` by kind."""
        statement, subject = text(row, "edit_statement"), text(row, "subject_name")
        scope = pairs(row, "edit_scope")
        true = texts(row.get("edit_scope_true_ans"), "edit_scope_true_ans")
        try:
            request = stated(statement, subject, scope[0][1])
        except FormatError:  # the statement ends with something else: the first question says the same
            named, guessed = aligned(scope[0][0], subject)
            self.guessed += guessed
            request = templated(scope[0][0], named, scope[0][1])
        beside = row.get("unrelated")
        if not isinstance(beside, dict):
            raise FormatError(f"the field 'unrelated' must be an object with 'neighbor_subj' and 'same_subj', not {beside!r}")
        probes = self.asked(request, (), true)
        versus = (scope[0][1], true[0]) if true and true[0] != scope[0][1] else None
        probes += [
            Probe(kind="generalization", query=q, answers=(answer,), place="in_scope", versus=versus if answer == scope[0][1] else None, fact=0)
            for q, answer in dict(scope).items()
        ]
        for name, place in (("neighbor_subj", "neighborhood"), ("same_subj", "same_subject")):
            probes += [Probe(kind="locality", query=q, place=place, group=name) for q in texts(listed(beside, name), f"unrelated.{name}")]
        return record([request], probes)

    def claims(self, row: Row) -> Record:
        """FEVER: `edit_statement` and claims that it decides, "yes" or "no"."""
        request = stated(text(row, "edit_statement"))
        scope = dict(pairs(row, "edit_scope"))
        wrong = sorted(set(scope.values()) - {"yes", "no"})
        if wrong:
            raise FormatError(f"a claim is answered 'yes' or 'no', not {wrong[0]!r}")
        other = {"yes": "no", "no": "yes"}
        probes = []
        for number, (claim, answer) in enumerate(scope.items()):
            kind: Kind = "generalization" if number else "efficacy"
            probes.append(Probe(kind=kind, query=claimed(claim), answers=(answer,), place="in_scope", versus=(answer, other[answer]), fact=0))
        return record([request], probes)

    def scope(self, row: Row) -> Record:
        """One (`statement`, `query`, `label`) a line: does the statement govern the query?"""
        statement, query, label = text(row, "statement"), text(row, "query"), row.get("label")
        request = stated(statement, row.get("subject"))
        known = {0: False, 1: True, "0": False, "1": True, "in_scope": True, "out_of_scope": False}
        place = row.get("kind") or label
        if place in ("neighborhood", "same_subject", "distractor", "unrelated") and not isinstance(place, bool):
            known[place] = False
        if not isinstance(label, (bool, int, str)) or label not in known:
            raise FormatError(f"the field 'label' must be true or false (or 1 or 0, 'in_scope' or 'out_of_scope'), not {label!r}")
        if known[label]:
            place = "in_scope"
        elif place not in ("neighborhood", "same_subject", "distractor", "unrelated"):
            place = where(query, request)
        return record([request], [Probe(kind="scope", query=query, place=place, fact=0 if known[label] else None)])


def record(requests: Sequence[Request], probes: Sequence[Probe], generation: Sequence[str] = ()) -> Record:
    """A record whose number is still to come; no query is asked twice for the same thing."""
    if not requests:
        raise FormatError("there is no edit in it")
    return Record(number=0, requests=tuple(requests), probes=tuple(dict.fromkeys(probes)), generation=tuple(generation))


def pairs(row: Row, name: str) -> list[tuple[str, str]]:
    """A list of [query, answer]."""
    found = listed(row, name)
    if not found or not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) and each.strip() for each in pair) for pair in found):
        raise FormatError(f"the field {name!r} must be a list of [query, answer], not {found!r}")
    return [(fold(query), fold(answer)) for query, answer in found]


def claimed(claim: str) -> str:
    """A claim as a question that is answered with yes or no; one that is a question stays as it is."""
    said = claim.strip()
    if said.endswith("?"):
        return said
    first, _, rest = said.partition(" ")
    small = first.casefold() in INSIDE and not rest[:1].isupper()  # else it may be part of a name
    return f"Is it true that {said[:1].lower() if small else said[:1]}{said[1:].rstrip('.!')}?"


def where(query: str, request: Request) -> str:
    """Which slice a query out of scope belongs to, by what it mentions: the whole fact, its subject, words of it, or nothing of it."""
    said = query.casefold()
    statement = request.statement.casefold()
    if statement in said and len(said) > len(statement) + 2:
        return "distractor"
    if request.subject.casefold() in said:
        return "same_subject"
    shared = set(request.prompt.casefold().replace("{}", " ").split()) & set(said.replace("?", " ").split())
    return "neighborhood" if len({word for word in shared if len(word) > 3}) >= 1 else "unrelated"


def outside(query: str, request: Request, group: str, near: bool = True) -> Probe:
    """A query out of scope, in the data's group and in the slice that its text tells; distractor groups are named so."""
    place = "distractor" if "distract" in group.casefold() else where(query, request)
    if not near and place == "neighborhood":
        place = "unrelated"  # open questions from another data set: shared words are chance
    return Probe(kind="locality", query=query, group=group, place=place)


def unedited(row: Row, hops: Sequence[Row], edited: set[str]) -> list[Request]:
    """The hops of a chain that no edit changed."""
    triples = (row.get("orig") or {}).get("new_triples_labeled") or []
    made = []
    for hop, triple in zip(hops, triples, strict=False):
        if fold(str(hop.get("question"))) not in edited:
            made.append(templated(text(hop, "cloze"), str(triple[0]), text(hop, "answer")))
    return made
