"""The layout's promises: imports point one way, `--help` is light, the lexicon is whole, every command is documented."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"stores": {"stores"}, "policies": {"stores", "policies"}, "hybrid": {"stores", "policies", "hybrid"}}
OURS = {"stores", "policies", "hybrid", "cli"}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert (imported(path) & OURS) <= ALLOWED[package], path


def test_policies_know_neither_torch_nor_databases() -> None:
    for path in (ROOT / "policies").rglob("*.py"):
        assert not imported(path) & {"torch", "sqlite3", "sqlite_utils", "faiss", "numpy", "transformers"}, path


def test_help_is_light() -> None:
    code = "import sys, cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules and 'faiss' not in sys.modules, 'heavy'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "add-fact" in done.stdout


def test_every_command_has_help_and_an_example() -> None:
    import click

    import cli

    def walk(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
        inner = [pair for name, sub in getattr(command, "commands", {}).items() for pair in walk(sub, f"{path} {name}")]
        return [(path, command), *inner]

    for path, command in walk(cli.main, "hybrid")[1:]:
        assert command.help and "Example:" in command.help, f"{path} has no example"
        assert f"hybrid {path.split()[1]}" in command.help, path


def test_nothing_is_unpickled() -> None:
    for path in [*(ROOT / "hybrid").rglob("*.py"), *(ROOT / "stores").rglob("*.py"), ROOT / "cli.py"]:
        source = path.read_text(encoding="utf-8")
        for word in ("import pickle", "torch.load(", "allow_pickle=True", "shell=True", "trust_remote_code=True"):
            assert word not in source, f"{path}: {word}"


def test_lexicon() -> None:
    from hybrid.lexicon import plentiful, relations

    assert len(relations()) >= 100
    assert len(plentiful()) >= 100
    names = [relation.name.casefold() for relation in relations().values()]
    assert len(set(names)) == len(names), "names of relations must differ"
    for relation in relations().values():
        assert relation.questions and relation.statements and relation.synonyms, relation.id
        trained = {*relation.statements, *relation.questions, *relation.target_first, *relation.oblique}
        held_out = {*relation.held_out_statements, *relation.held_out_questions, *relation.held_out_target_first, *relation.held_out_oblique}
        assert not {t.casefold() for t in trained} & {t.casefold() for t in held_out}, relation.id
        for template in trained | held_out:
            assert template.count("{}") == 1, template
        for template in (*relation.target_first, *relation.held_out_target_first):
            assert template.count("[]") == 1, template
        assert relation.inverse is None or relation.inverse in relations()


def test_fill_keeps_braces_of_values() -> None:
    from hybrid.lexicon import fill

    assert fill("The capital of {} is", "{x} {}") == "The capital of {x} {} is"
    assert fill("[] is the capital of {}", "a[]b", "c{}d") == "c{}d is the capital of a[]b"


def test_committed_weights_are_small_safetensors() -> None:
    total = 0
    for path in (ROOT / "hybrid").rglob("*.safetensors"):
        assert path.stat().st_size < 15_000_000, path
        total += path.stat().st_size
    assert 0 < total < 64_000_000
