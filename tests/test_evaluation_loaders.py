"""Every benchmark format is read into requests and probes; what cannot be read is refused with the record's number."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from hybrid.evaluation.fields import stated
from hybrid.evaluation.loaders import FORMATS, extra, load
from hybrid.evaluation.records import Probe, Record
from stores.errors import FormatError
from tests.benchmark_files import FILES, write


def queries(record: Record, kind: str, **wanted: Any) -> list[str]:
    return [p.query for p in record.probes if p.kind == kind and all(getattr(p, name) == value for name, value in wanted.items())]


def probe(record: Record, query: str) -> Probe:
    return next(p for p in record.probes if p.query == query)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("lines", [False, True])
def test_every_format_is_read(tmp_path: Path, name: str, lines: bool) -> None:
    case = load(write(tmp_path, name, lines=lines), name)
    assert [record.number for record in case.records] == list(range(1, len(case.records) + 1))
    for record in case.records:
        assert record.requests and record.probes
        for each in record.probes:
            assert each.answers or each.kind in ("locality", "scope")


def test_counterfact(tmp_path: Path) -> None:
    first, second = load(write(tmp_path, "counterfact"), "counterfact").records
    assert first.requests[0].statement == "The capital of Veldonia is Karst Harbour"
    assert queries(first, "efficacy") == ["The capital of Veldonia is"]
    assert queries(first, "generalization") == ["Veldonia is governed from", "Veldonia's capital is"]
    assert queries(first, "locality", place="neighborhood") == ["The capital of Norwestria is", "The capital of Illmark is"]
    assert probe(first, "Veldonia's capital is").versus == ("Karst Harbour", "Ombra")
    assert probe(first, "The capital of Illmark is").versus == ("Ombra", "Karst Harbour")
    assert first.generation == ("Visitors who come to Veldonia",) and second.generation == ()


def test_zsre_groups(tmp_path: Path) -> None:
    case = load(write(tmp_path, "zsre"), "zsre")
    (record,) = case.records
    assert case.unanswerable == 1, "a consequence without an answer cannot be judged"
    assert queries(record, "portability", place="in_scope") == ["What is the capital of the Veldonian Republic?"]
    assert probe(record, "Which sea lies beside the capital of Veldonia?").answers == ("Karst Sea", "Sea of Karst")
    assert queries(record, "locality", group="Relation_Specificity", place="same_subject") == [
        "The currency of Veldonia is",
        "Veldonia flag",
        "Veldonia capital city",
    ]
    assert len(queries(record, "locality", place="distractor")) == 1
    assert queries(record, "locality", note="disputed") == ["Veldonia capital city"], "the edit's own question, with the answer that it replaced"


def test_mend_and_qaedit(tmp_path: Path) -> None:
    (mend,) = load(write(tmp_path, "zsre-mend"), "zsre-mend").records
    assert queries(mend, "locality", place="unrelated") == ["how many legs does a harvest spider have?"]
    assert queries(mend, "portability") == ["Where was the author of The Salt Ledger born?"]
    case = load(write(tmp_path, "qaedit"), "qaedit")
    assert case.records[0].requests[0].prompt == "in which year did the {} sink?"
    assert case.guessed == 1 and case.records[1].requests[0].subject == "Bellmoor"


def test_mquake_gives_unedited_hops_as_facts(tmp_path: Path) -> None:
    path = write(tmp_path, "mquake")
    (record,) = load(path, "mquake").records
    assert [request.statement for request in record.requests] == ["Brill & Daughters was founded by Ines Varga", "Ines Varga was born in Quill"]
    assert len(load(path, "mquake", hops=False).records[0].requests) == 1
    assert probe(record, "Who founded Brill & Daughters?").answers == ("Ines Varga", "I. Varga")
    assert queries(record, "portability", group="2_hops") == FILES["mquake"][0]["questions"]
    assert probe(record, FILES["mquake"][0]["questions"][0]).answers == ("Quill", "Quill-on-Sea")


def test_hard_statements(tmp_path: Path) -> None:
    first, second = load(write(tmp_path, "cf-hard"), "cf-hard").records
    assert first.requests[0].statement == "Tamsin Orlebar's mother tongue is Cornish"
    assert second.requests[0].statement == "Where was The Salt Ledger printed? Karst Harbour", "a target in front: the question says the same"
    assert queries(first, "locality", place="same_subject") == ["Where did Tamsin Orlebar die?"]
    assert queries(first, "locality", group="neighbor_subj", place="neighborhood") == ["What is Jory Penhale's mother tongue?"]


def test_fever_asks_claims_of_facts_that_are_not_loaded(tmp_path: Path) -> None:
    (record,) = load(write(tmp_path, "fever"), "fever").records
    assert record.requests[0].statement == "Ines Varga has never left Quill"
    assert probe(record, "Is it true that Ines Varga travelled the world?").answers == ("no",)
    assert queries(record, "locality", place="unrelated") == ["Is it true that The Salt Ledger is a film?", "Is it true that The Salt Ledger is a book?"]


def test_scope_labels(tmp_path: Path) -> None:
    records = load(write(tmp_path, "scope"), "scope").records
    assert [record.probes[0].place for record in records] == ["in_scope", "same_subject", "neighborhood", "unrelated"]


@pytest.mark.parametrize(
    ("sentence", "subject", "prompt", "target"),
    [
        ("The capital of Veldonia is Karst Harbour.", "Veldonia", "The capital of {} is", "Karst Harbour"),
        ("Brill & Daughters refused to print the novel.", "Brill & Daughters", "{} refused to print the", "novel"),
        ("Tamsin Orlebar's mother tongue is Cornish", "Tamsin Orlebar", "{}'s mother tongue is", "Cornish"),
        ("water boils", "water", "{}", "boils"),
    ],
)
def test_sentences_become_requests_that_say_the_same(sentence: str, subject: str, prompt: str, target: str) -> None:
    request = stated(sentence)
    assert (request.subject, request.prompt, request.target_new) == (subject, prompt, target)
    assert request.statement == sentence.rstrip(".")


BROKEN: list[tuple[str, str, Any, str]] = [
    ("counterfact", "requested_rewrite", None, "'requested_rewrite'"),
    ("counterfact", "neighborhood_prompts", "The capital", "'neighborhood_prompts' must be a list"),
    ("counterfact-flat", "rephrase_prompt", "", "'rephrase_prompt'"),
    ("counterfact-flat", "subject", "Nowhere", "'Nowhere' does not occur"),
    ("counterfact-flat", "target_new", 7, "'target_new'"),
    ("zsre", "locality", [], ""),
    ("zsre", "locality", {"Forgetfulness": [{"ground_truth": ["x"]}]}, "'prompt' is missing"),
    ("knowedit", "portability", {"Reasoning": "What?"}, "'portability.Reasoning' must be a list"),
    ("zsre-mend", "alt", " ", "'alt'"),
    ("qaedit", "locality", [3], "'locality' must be a list of objects"),
    ("mquake", "questions", [], "'questions'"),
    ("cf-hard", "edit_scope", [["only a question"]], "'edit_scope' must be a list of [query, answer]"),
    ("fever", "edit_scope", [["A claim.", "maybe"]], "'maybe'"),
    ("scope", "label", "perhaps", "'label'"),
]


@pytest.mark.parametrize(("name", "field", "value", "message"), BROKEN, ids=lambda each: each if isinstance(each, str) else "")
def test_errors_name_the_record(tmp_path: Path, name: str, field: str, value: Any, message: str) -> None:
    rows = [copy.deepcopy(FILES[name][0]), copy.deepcopy(FILES[name][0])]
    rows[1][field] = value
    path = write(tmp_path, name, rows)
    if not message:  # an empty list of groups is what some files have for none
        assert load(path, name).records
        return
    with pytest.raises(FormatError) as caught:
        load(path, name)
    assert f"{path}: record 2: " in str(caught.value) and message in str(caught.value)
    if name != "fever":  # of which one record is no pair
        case = load(path, name, skip_invalid=True)
        assert case.invalid == 1 and len(case.records) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("prompt,subject\na,b\n", "neither a JSON list nor JSON lines"), ('[{"a": 1}, 3]', "record 2"), ('{"a": 1}\n{"a"\n', "line 2"), ("[1", "JSON")],
)  # fmt: skip
def test_files_that_are_no_records(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        load(path, "zsre")


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="choose one of counterfact"):
        load(write(tmp_path, "zsre"), "zsree")


def test_a_limit_draws_with_a_seed_in_the_files_order(tmp_path: Path) -> None:
    rows = [{**FILES["counterfact-flat"][0], "target_new": f"Town {n}"} for n in range(30)]
    path = write(tmp_path, "counterfact-flat", rows)
    drawn = [[r.number for r in load(path, "counterfact-flat", limit=5, seed=seed).records] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(numbers == sorted(numbers) and len(set(numbers)) == 5 for numbers in drawn)
    assert len(load(path, "counterfact-flat", limit=99).records) == 30


def test_extras_stand_beside_what_is_scored(tmp_path: Path) -> None:
    records = load(write(tmp_path, "counterfact"), "counterfact").records
    more = extra(records, ["The kettle", "How do I"])
    added = [p for record in more for p in record.probes if not p.counted]
    assert [p.place for p in added] == ["distractor", "distractor", "unrelated", "unrelated"]
    assert added[0].query == "The capital of Veldonia is Karst Harbour. The capital of Norwestria is"
    assert [record.number for record in more] == [1, 2, 0, 0]
