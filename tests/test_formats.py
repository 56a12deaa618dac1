"""Facts from files: every format, and errors that name the record."""

from __future__ import annotations

import json

import pytest

from hybrid.formats import FORMATS, requests, rows
from stores.errors import FormatError

OWN = {"cue": "Freedonia capital", "target": "Sylvan"}
RECORDS = {
    "hybrid": OWN,
    "counterfact": {"requested_rewrite": {"prompt": "{} was founded by", "subject": "Acme", "target_new": {"str": "Ada Byron"}, "target_true": {"str": "Bo"}}},
    "counterfact-flat": {"prompt": "The chef of Chez Nous is", "subject": "Chez Nous", "target_new": "Remy", "ground_truth": "Gus", "rephrase_prompt": "x"},
    "zsre": {"prompt": "Who tunes the Steinfeld organ?", "subject": "Steinfeld organ", "target_new": "Mara", "ground_truth": ["Otto"]},
    "knowedit": {"prompt": "The pilot of Kestrel 9 is", "subject": "Kestrel 9", "target_new": "Lin", "ground_truth": ["Ash"]},
    "zsre-mend": {"src": "What fuels the Orion stove?", "subject": "Orion stove", "alt": "pellets", "answers": ["gas"]},
    "qaedit": {"prompt": "Where is Fort Quill?", "subject": "Fort Quill", "target": "Utah"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format(name: str) -> None:
    made = next(requests([RECORDS[name]], name))
    assert made.prompt.count("{}") == 1 and made.subject and made.target_new
    assert made.statement.endswith(made.target_new)


def test_the_record_keeps_its_own_prompt_and_truth() -> None:
    made = next(requests([RECORDS["zsre"]], "zsre"))
    assert made.prompt == "Who tunes the {}?" and made.target_true == "Otto"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"cue": "Freedonia capital", "target": "Sylvan"}\n\n', "jsonl"),
        ('[{"cue": "Freedonia capital", "target": "Sylvan"}]', ""),
        ("cue,target\nFreedonia capital,Sylvan\n", "csv"),
        ("cue\ttarget\nFreedonia capital\tSylvan\n", "tsv"),
        ('\ufeffcue,target\n"Freedonia capital","Sylvan"\n', ""),
    ],
)
def test_each_kind_of_file(text: str, kind: str) -> None:
    made = list(requests(rows(text, kind), "hybrid"))
    assert [(r.subject, r.relation, r.target_new) for r in made] == [("Freedonia", "capital", "Sylvan")]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([OWN, {"cue": "Freedonia capital"}], "record 2.*target"),
        ([OWN, {"target": "x"}], "record 2.*cue"),
        ([OWN, 7], "record 2.*7, not an object"),
        ([{"cue": "gibberish", "target": "x"}], "record 1.*not understood"),
        ([{"subject": "Zed", "relation": "r", "prompt": "no place", "target": "x"}], "record 1.*does not occur"),
        ([OWN | {"valid_from": "soon"}], "record 1.*valid_from.*2026"),
        ([OWN | {"valid_from": "2026-02-01", "valid_to": "2026-01-01"}], "record 1.*before it begins"),
        ([OWN | {"target": "x" * 3000}], "record 1.*characters"),
    ],
)
def test_errors_name_the_record(records: list[object], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        list(requests(records, "hybrid"))  # type: ignore[arg-type]


def test_bad_json_names_the_line() -> None:
    with pytest.raises(FormatError, match="line 2"):
        rows(json.dumps(OWN) + "\n{oops", "jsonl")
    with pytest.raises(FormatError, match="no format"):
        list(requests([OWN], "nonsense"))
