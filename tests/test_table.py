"""The bench of the editing methods: what a sequence leaves behind, and which rows a table keeps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid.editing import answers
from hybrid.model import LanguageModel
from stores.records import Fact
from tests.conftest import save_worded

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    """A small random model."""
    yield LanguageModel(str(save_worded(tmp_path_factory.mktemp("llama"), "llama")), "cpu")


@pytest.mark.parametrize("method", ["ft", "grace"])
def test_a_sequence_is_edit_upon_edit_and_leaves_no_trace(model: LanguageModel, method: str) -> None:
    from cases import Board, Case
    from measure import in_sequence, measured, one_by_one

    facts = [Fact(id="", subject=isle, relation="x", prompt="The ferry port of {}", target_new=port) for isle, port in (("Orsa", "Nim"), ("Belm", "Pax"))]
    cases = [Case(fact, {"phrasings": [], "neighbours": ["The ferry port of Tirn"]}) for fact in facts]
    board, before = Board(model, cases), {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    settings = {"lr": 0.05} if method == "ft" else {"steps": 60, "lr": 0.2}
    row = measured(board, method, settings, in_sequence, ["The port of Fenn"], 100.0)
    assert row["efficacy"] >= 0.5 and row["seconds a fact"] > 0 and row["peak MB"] >= 0 and "phrasings" not in row
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())
    assert answers(model, [cases[0].fact.cloze])[0] != "Nim"
    assert measured(board, method, settings, one_by_one)["efficacy"] == 1.0
    board.before["The ferry port of Tirn"] = "not this"
    assert measured(board, method, settings, one_by_one)["neighbours"] == 0.0


def test_of_a_method_in_a_mode_one_row_is_kept() -> None:
    from editors import kept

    rows = [{"method": "unedited", "cases": "own"}, {"method": "memit", "cases": "own", "mode": "batch", "facts": 1}]
    rows = kept(kept(rows, {"method": "grace", "cases": "own", "mode": "single"}), {"method": "memit", "cases": "own", "mode": "batch", "facts": 2})
    assert [(row["method"], row.get("facts")) for row in rows] == [("unedited", None), ("grace", None), ("memit", 2)]


def test_all_methods_of_a_file_stand_in_one_table() -> None:
    from table import evaluated

    def result(method: str, loads: str | None = None, **slices: float) -> dict[str, Any]:
        return {
            "method": method, "records": 3, "settings": {"file": "x.json", "loads": loads}, "scores": {"efficacy": 1.0},
            "slices": {name: {"locality": share} for name, share in slices.items()},
        }  # fmt: skip

    lines = evaluated("x", [result("memit", neighborhood=0.25), result("hybrid", "20000"), result("rag", distractor=0.0), result("hybrid")]).splitlines()
    assert lines[0] == "| x | records | efficacy | neighborhood | distractor |", "no column without a figure"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| hybrid", "| hybrid, 20,000 further facts", "| rag", "| memit"]
    assert lines[4].endswith("| 3 | 100.0% |  | 0.0% |") and lines[5].endswith("| 25.0% |  |")
