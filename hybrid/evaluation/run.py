"""The evaluation: all edits are made, then everything is asked; each record's answers are written down before the next ones are asked.

The unedited model answers first, in the same batches, so that rounding bears on both alike; locality compares with those answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hybrid.answer import Decision
from hybrid.counterfactual.model import SHIPPED, CounterfactualModel
from hybrid.editors import ADAPTERS, EDITORS
from hybrid.embedder import file_hash
from hybrid.evaluation.journal import Journal, open_folder
from hybrid.evaluation.likelihood import mean_nll, sample
from hybrid.evaluation.loaders import extra, load
from hybrid.evaluation.methods import READ_BY_ANOTHER, THRESHOLD, TOP_K, Loaded, Method, Mode, check_method, open_method, plain_prompt
from hybrid.evaluation.metrics import fluency, matches
from hybrid.evaluation.records import Case, Probe, Record
from hybrid.evaluation.score import scored
from hybrid.evaluation.weights import kept_values
from hybrid.model import LanguageModel, Prompt
from hybrid.request import Request
from hybrid.scope.scorer import WEIGHTS
from stores.errors import HybridError

TOGETHER = 16
"""Records that are asked together."""
LONG = 100
"""Tokens of a text whose fluency is measured."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an evaluation is; two runs with equal plans give equal results."""

    file: Path
    format: str
    method: str
    mode: Mode = "batch"
    limit: int | None = None
    seed: int = 0
    loads: str | None = None
    """A file of facts in the project's own format, or how many invented ones, to load beside the records'."""
    embedder: str | None = None
    top_k: int = TOP_K
    threshold: float = THRESHOLD
    counterfactual_model: str = SHIPPED
    max_new_tokens: int = 48
    probabilities: bool = True
    extras: bool = True
    """Ask distractor-prefixed neighbours and unrelated texts, too."""
    hops: bool = True
    """MQuAKE: give the hops that no edit changed as facts."""
    fluency: int = 100
    """Records whose generation prompts are continued, at most."""
    skip_invalid: bool = False
    editor: dict[str, Any] = field(default_factory=dict)
    """Settings of a parametric editor that override the published ones."""


class Evaluation:
    """One run in one folder."""

    def __init__(self, plan: Plan, model: LanguageModel, folder: Path, *, resume: bool = False, values: Path | None = None):
        """Read the file, and prepare the folder.

        Args:
            values: where an editor that optimises values keeps them by content, for this run and others; None to keep none.
        Raises:
            FormatError: if the file cannot be read; the message names the record.
            NotFound: if there is no such method.
            Conflict: if the folder holds something else.
        """
        check_method(plan.method)
        if plan.format == "scope" and plan.method in {**EDITORS, **ADAPTERS}:
            raise HybridError(
                f"the format 'scope' asks which facts fire, and {plan.method} has none; use hybrid, ike, counterfactual, rag, cosine, serac or base"
            )
        self.plan, self.model, self.folder = plan, model, folder
        self.editor = plan.editor if values is None else plan.editor | {"cache": kept_values(plan.method, values)}
        self.case: Case = load(plan.file, plan.format, limit=plan.limit, seed=plan.seed, skip_invalid=plan.skip_invalid, hops=plan.hops)
        self.single = plan.mode == "single"
        self.loads = distractors(plan.loads, self.case.records)
        asked = plan.extras and plan.format != "scope"
        self.records = extra(self.case.records, () if self.single else unrelated_texts()) if asked else list(self.case.records)
        self.long = {*[each.number for each in self.records if each.generation][: plan.fluency]}
        self.together = 1 if self.single else TOGETHER
        self.replaced = open_folder(folder, self.identity(), resume)

    def identity(self) -> dict[str, Any]:
        """The plan as plain data, with hashes of what it rests on."""
        known = {**asdict(self.plan), "file": self.plan.file.name, "file_hash": file_hash(self.plan.file), "model": str(self.model.identity)}
        if self.plan.method in READ_BY_ANOTHER:
            known["counterfactual_hash"] = CounterfactualModel(self.plan.counterfactual_model).identity.weights_hash
        if self.plan.method in ("hybrid", "ike", "counterfactual"):
            known["scope_hash"] = file_hash(WEIGHTS / "manifest.json")  # which knows the classifier's weights and calibration
        if self.plan.loads is not None and not self.plan.loads.isdigit():
            known["loads_hash"] = file_hash(Path(self.plan.loads))
        return known

    def run(self) -> dict[str, Any]:
        """Everything that is not done yet; returns the result, which also lies in the folder."""
        plain = self._unedited()
        method = open_method(
            self.plan.method, self.model, self.folder, self.plan.mode,
            embedder=self.plan.embedder, top_k=self.plan.top_k, threshold=self.plan.threshold,
            counterfactual_model=self.plan.counterfactual_model, editor=self.editor,
        )  # fmt: skip
        try:
            loaded = method.load(self.records, self.loads)
            rows = self._ask(method, loaded, plain)
            used = getattr(method, "used", {})
        finally:
            method.close()
        return scored(self.plan.method, self.model.name, self.case, self._settings(loaded, used), rows, sum(row["seconds"] for row in plain))

    def _settings(self, loaded: Loaded, used: dict[str, Any]) -> dict[str, Any]:
        case = self.case
        left_out = {"invalid": case.invalid, "unanswerable": case.unanswerable, "guessed_subjects": case.guessed}
        made = {"facts": loaded.facts, "superseded": loaded.superseded, "refused": loaded.refused}
        return {**self.identity(), **made, **left_out, "editor": {**used, **self.plan.editor}}

    # -- the unedited model --------------------------------------------------------------------

    def _unedited(self) -> list[dict[str, Any]]:
        """Its answers, record by record."""
        journal = Journal(self.folder / "base.jsonl", self.together)
        for group in self._groups(len(journal.rows), "unedited"):
            started = time.perf_counter()
            asked = [[plain_prompt(self.model, p.query) for p in record.probes if p.kind != "scope"] for record in group]
            said = iter(self._complete([prompt for prompts in asked for prompt in prompts]))
            seconds = (time.perf_counter() - started) / len(group)
            journal.append([{"record": r.number, "said": [next(said) for _ in prompts], "seconds": seconds} for r, prompts in zip(group, asked, strict=True)])
        return journal.rows

    def _complete(self, prompts: Sequence[Prompt], model: LanguageModel | None = None) -> list[str]:
        """Answers of a model, the evaluated one unless told; a prompt that its context cannot hold gets none."""
        model = model or self.model
        fits = [len(model.encode(prompt)) < model.context for prompt in prompts]
        said = iter(model.complete_all([prompt for prompt, fit in zip(prompts, fits, strict=True) if fit], self.plan.max_new_tokens))
        return [next(said) if fit else "" for fit in fits]

    def _groups(self, done: int, what: str) -> Iterator[Sequence[Record]]:
        """The records that are not done, in the groups that are asked together."""
        with tqdm(total=len(self.records), initial=done, desc=what, unit="record", disable=None) as bar:
            for start in range(done, len(self.records), self.together):
                group = self.records[start : start + self.together]
                yield group
                bar.update(len(group))

    # -- the method ----------------------------------------------------------------------------

    def _ask(self, method: Method, loaded: Loaded, plain: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        journal = Journal(self.folder / "records.jsonl", self.together)
        at = len(journal.rows)
        for group in self._groups(at, self.plan.method):
            before = plain[at : at + len(group)]
            with method.only(group[0]) if self.single and group[0].requests else nullcontext():
                journal.append(self._group(method, group, before, loaded.seconds if at == 0 else 0.0))
            at += len(group)
        return journal.rows

    def _group(self, method: Method, group: Sequence[Record], before: Sequence[dict[str, Any]], loading: float) -> list[dict[str, Any]]:
        """Decide, answer and judge some records."""
        started = time.perf_counter()
        flat = [(record, probe) for record in group for probe in record.probes]
        decided = [_timed(method, probe.query) for _, probe in flat]
        answered = [(n, decided[n][0]) for n, (_, probe) in enumerate(flat) if probe.kind != "scope"]
        prompts = {n: method.prompt(flat[n][1].query, decision) for n, decision in answered}
        said = dict(zip(prompts, [text for row in before for text in row["said"]], strict=True))
        plain = dict(said)
        said |= {n: decision.said for n, decision in answered if decision.said is not None}
        again = [
            n for n, decision in answered if decision.said is None and not (method.same_weights and prompts[n] == plain_prompt(self.model, flat[n][1].query))
        ]
        models = {n: method.answering(decision) for n, decision in answered}
        generating = time.perf_counter()
        for model in dict.fromkeys(models.values()):
            mine = [n for n in again if models[n] is model]
            completed = zip(mine, self._complete([prompts[n] for n in mine], model), strict=True)
            said |= {n: method.put_right(text, decided[n][0]) for n, text in completed}
        generated = time.perf_counter() - generating
        shared = sum(row["seconds"] for row in before) / max(1, len(prompts))  # what an answer of the unedited model takes
        rows: dict[int, list[dict[str, Any]]] = {}
        for n, (record, probe) in enumerate(flat):
            decision, spent = decided[n]
            row = self._judged(method, record, probe, decision) | {"ms": round(spent, 3)}
            if n in prompts:
                row |= {
                    "said": said[n],
                    "unedited": plain[n],
                    "same": said[n] == plain[n],
                    "generate_ms": round(1000 * (generated / len(again) if n in again else shared), 3),
                }
                row |= {"overlong": True} if len(models[n].encode(prompts[n])) >= models[n].context else {}
                row |= {"right": matches(said[n], probe.answers)} if probe.answers else {}
                row |= self._probabilities(models[n], prompts[n], probe)
            rows.setdefault(id(record), []).append(row)
        texts = [self._fluency(method, record) for record in group]
        seconds = (time.perf_counter() - started + loading) / len(group)
        return [
            {"record": record.number, "seconds": seconds, "loading": loading / len(group), "fluency": text, "probes": rows[id(record)]}
            for record, text in zip(group, texts, strict=True)
        ]

    def _judged(self, method: Method, record: Record, probe: Probe, decision: Decision) -> dict[str, Any]:
        """What was asked, and which facts fired."""
        expected = method.governed(record, probe.fact)
        fired = [hit.fact.id for hit in decision.governing]
        own = [hit.score for hit in decision.candidates if hit.fact.id in expected or (probe.fact is None and hit.fact.id in method.governed(record, None))]
        found: dict[str, Any] = {
            "kind": probe.kind,
            "group": probe.group,
            "note": probe.note,
            "place": probe.place,
            "counted": probe.counted,
            "query": probe.query,
        }
        return found | {
            "route": decision.route,
            "fired": len(fired),
            "right_fact": bool(fired) and fired[0] in expected,
            "score": round(max(own, default=0.0), 5),
        }

    def _probabilities(self, model: LanguageModel, prompt: Prompt, probe: Probe) -> dict[str, Any]:
        """Mean negative log likelihoods of (wanted, other)."""
        if not self.plan.probabilities or probe.versus is None:
            return {}
        wanted, other = (mean_nll(model, prompt, target) for target in probe.versus)
        return {"nll": [round(wanted, 5), round(other, 5)]} if max(wanted, other) < float("inf") else {}

    def _fluency(self, method: Method, record: Record) -> float | None:
        """The n-gram entropy of a long text, for the first records that have a prompt for one."""
        if record.number not in self.long:
            return None
        query = record.generation[0]
        decision = method.decide(query)
        prompt = method.prompt(query, decision)
        return round(fluency(f"{query}{sample(method.answering(decision), prompt, LONG, seed=record.number)}"), 5)


def _timed(method: Method, query: str) -> tuple[Decision, float]:
    """A decision, and its milliseconds; what another method would not have needed is not counted."""
    started = time.perf_counter()
    decision = method.decide(query)
    return decision, decision.timings_ms.get("route", (time.perf_counter() - started) * 1000)


def unrelated_texts() -> list[str]:
    """The project's own texts and questions about nothing that a benchmark edits."""
    return Path(__file__).with_name("unrelated.txt").read_text(encoding="utf-8").splitlines()


def distractors(loads: str | None, records: Sequence[Record]) -> list[Request]:
    """Extra facts: from a file in the project's own format, or so many invented ones about subjects that no record has.

    Raises:
        FormatError: naming the record of the file.
    """
    if loads is None:
        return []
    if not loads.isdigit():
        from hybrid.formats import read

        with Path(loads).open(encoding="utf-8") as file:
            return list(read(file, "hybrid"))
    return invented(int(loads), {request.subject.casefold() for record in records for request in record.requests})


def invented(count: int, taken: set[str]) -> list[Request]:
    """Facts in the lexicon's phrasings about names that nobody has; the same ones for the same count."""
    import random

    from hybrid.lexicon import plentiful
    from hybrid.pocket.names import invent

    rng, found, relations = random.Random("distractors"), dict[str, Request](), list(plentiful().values())
    while len(found) < count:
        relation = rng.choice(relations)
        subject = invent(relation.subject_type, rng)
        key = subject.casefold()
        if key not in taken and key not in found:
            target = invent(relation.target_type, rng)
            found[key] = Request(subject=subject, relation=relation.name, prompt=rng.choice(relation.statements), target_new=target)
    return list(found.values())
