"""The README tells the truth: CI runs its test command, its results are those of the committed JSON, its Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_ci_runs_the_readme_command() -> None:
    command = next(block.strip() for block in blocks("sh") if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_results_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "bench/table.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, "run `python bench/table.py`\n" + done.stderr


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Canberra counterfactual")


def test_every_command_of_the_readme_exists() -> None:
    import cli

    for name in set(re.findall(r"^hybrid ([a-z-]+)", "\n".join(blocks("sh")), re.MULTILINE)):
        assert name in cli.main.commands, name
