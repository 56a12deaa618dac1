"""consolidate, generations and cron as users type them; exports as peft and transformers load them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from cli import main
from hybrid.consolidation.schedule import Schedule, crontab_line, systemd_units
from hybrid.memory import HybridMemory
from tests.conftest import ISLES, PORTS, save_worded
from tests.test_consolidation import SETTINGS, measured

LOOSE = "--min-phrasings 0 --min-same-subject 0 --min-locality 0% --max-perplexity-drift 10000% --min-fluency 0".split()
SET = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("HYBRID_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A store with two generations, of three and of four facts; tests must not change it."""
    store = tmp_path_factory.mktemp("filled") / "store"
    return fill(store, measured(save_worded(tmp_path_factory.mktemp(request.param), request.param)))


def fill(store: Path, model: Path) -> Path:
    lines = [json.dumps({"subject": i, "relation": "ferry port", "prompt": "The ferry port of {}", "target": p}) for i, p in zip(ISLES, PORTS, strict=True)]
    for count in (3, 4):
        ran("add-facts", "-", "--store", store, "--model", model, given="\n".join(lines[:count]))
        ran("consolidate", "--force", *LOOSE, *SET, "--store", store, "--model", model)
    return store


def run(*words: str | Path, given: str | None = None) -> Result:
    done = CliRunner().invoke(main, list(map(str, words)), input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), f"a traceback, not a message: {done.exception!r}"
    return done


def ran(*words: str | Path, given: str | None = None) -> str:
    done = run(*words, given=given)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_generations_are_listed_shown_compared_and_proved(filled: Path) -> None:
    rows = [json.loads(line) for line in ran("generations", "list", "--json", "--store", filled).splitlines()]
    assert [(row["id"], row["live"], row["facts"]) for row in rows] == [(0, False, 0), (1, False, 3), (2, True, 4)]
    shown = json.loads(ran("generations", "show", "--json", "--store", filled))
    assert {"id", "weights_hash", "base_hash", "facts", "settings", "verification", "created_at", "author"} <= shown.keys()
    assert (shown["id"], shown["base_hash"], len(shown["facts"])) == (2, rows[0]["weights_hash"], 4)
    assert json.loads(ran("generations", "show", "0", "--json", "--store", filled))["weights_hash"] == shown["base_hash"]
    found = json.loads(ran("generations", "diff", "1", "2", "--json", "--store", filled))
    assert [fact["statement"] for fact in found["added"]] == ["The ferry port of Tirn Rue"] and found["removed"] == []
    assert all(norm > 0 for norm in found["norms"].values())
    proved = ran("generations", "verify", "1", "--solve", "--store", filled)
    assert proved.count("ok ") == 4 and "solved again from 3 facts" in proved
    assert "ok " in ran("generations", "verify", "0", "--store", filled)
    missing = run("generations", "show", "9", "--store", filled)
    assert missing.exit_code == 3 and "hybrid generations list" in missing.stderr


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_lora_adapter_gives_the_live_generations_logits(filled: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    done = json.loads(ran("generations", "export", "2", "--out", tmp_path, "--json", "--store", filled))
    config = json.loads((Path(done["path"]) / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == config["lora_alpha"] == done["rank"] == 4 and done["error"] == 0 and "alpha_pattern" not in config
    assert Path(done["path"]).name.startswith("hybrid-g000002-")
    with HybridMemory(filled) as memory:
        memory.weights.refresh()
        ids = memory.model.tokenizer("The ferry port of Orsa", return_tensors="pt")["input_ids"]
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(memory.model.folder), done["path"])
        with torch.inference_mode():
            live, theirs = memory.model.model(input_ids=ids).logits, adapted(input_ids=ids).logits
            with memory.weights.base():
                base = memory.model.model(input_ids=ids).logits
    assert (live - theirs).abs().max() < 1e-3 * (live - base).abs().max()


def test_an_adapter_can_be_cut_and_says_what_that_costs(filled: Path, tmp_path: Path) -> None:
    done = json.loads(ran("generations", "export", "2", "--out", tmp_path, "--max-rank", "2", "--json", "--store", filled))
    assert done["rank"] == 2 and 0 < done["error"] < 1
    again = run("generations", "export", "2", "--out", tmp_path, "--store", filled)
    assert again.exit_code == 4 and "is not empty" in again.stderr
    assert run("generations", "export", "2", "--format", "merged", "--max-rank", "2", "--store", filled).exit_code == 2


def test_merged_checkpoint_is_the_live_generation(filled: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = json.loads(ran("generations", "export", "2", "--format", "merged", "--out", tmp_path / "merged", "--json", "--store", filled))
    assert done["dtype"] == "float32" and 0 <= done["rounded_away"] < done["changed"] / 10
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(done["path"]), AutoTokenizer.from_pretrained(done["path"])
    with HybridMemory(filled) as memory:
        memory.weights.refresh()
        assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in memory.model.model.state_dict().items())
        given = tokenizer("The ferry port of Orsa", return_tensors="pt")["input_ids"]
        assert torch.equal(loaded(input_ids=given).logits, memory.model.model(input_ids=given).logits)


@pytest.fixture
def mine(tmp_path: Path, cache: Path) -> Path:
    """A store of one's own, as `filled`."""
    return fill(tmp_path / "store", measured(save_worded(tmp_path / "model")))


def test_rollback_forget_and_prune(mine: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in ran("generations", "list", "--json", "--store", mine).splitlines()]
    ran("generations", "export", "2", "--out", tmp_path / "out", "--store", mine)
    said = json.loads(ran("ask", "The ferry port of Tirn", "--json", "--store", mine))
    assert (said["route"], said["generation"]) == ("weights", 2) and said["answer"].startswith("Rue")
    forced = json.loads(ran("ask", "The ferry port of Tirn", "--route", "weights", "--json", "--store", mine))
    assert forced["answer"] == said["answer"]
    assert json.loads(ran("ask", "The ferry port of Tirn", "--route", "base", "--json", "--store", mine))["generation"] == 0
    fact = next(json.loads(line) for line in ran("facts", "list", "--json", "--store", mine).splitlines() if "Tirn" in line)
    refused = run("generations", "rollback", "0", "--store", mine, given="n\n")
    assert refused.exit_code == 1
    gone = run("forget", fact["id"], "--yes", "--json", "--store", mine)
    done = json.loads(gone.stdout)
    assert (done["generation"], done["weights_hash"], done["pruned"]) == (3, rows[1]["weights_hash"], [2]) and len(done["exports"]) == 1
    assert json.loads(ran("generations", "rollback", "0", "--yes", "--json", "--store", mine)) == {"live": 0, "weights_hash": rows[0]["weights_hash"]}
    assert json.loads(ran("generations", "prune", "--keep", "1", "--yes", "--json", "--store", mine)) == {"pruned": [1]}
    assert json.loads(ran("generations", "rollback", "3", "--yes", "--json", "--store", mine))["weights_hash"] == rows[1]["weights_hash"]
    assert "whole" in ran("log", "--verify", "--store", mine)
    done_well = run("doctor", "--store", mine)
    assert done_well.exit_code == 0 and "generation 3 is what was verified, and says all its 3 facts" in done_well.stdout


def test_dry_run_pins_and_holds(mine: Path) -> None:
    facts = [json.loads(line) for line in ran("facts", "list", "--json", "--store", mine).splitlines()]
    ran("facts", "hold", facts[0]["id"], facts[1]["id"], "--store", mine)
    ran("facts", "release", facts[1]["id"], "--store", mine)
    ran("add-fact", "The ferry port of {}", "Sol", "--subject", "Wolf", "--store", mine)
    new = json.loads(ran("facts", "list", "--text", "Wolf", "--json", "--store", mine))
    ran("facts", "pin", new["id"], "--store", mine)
    ran("add-fact", "The ferry port of {}", "Ume", "--subject", "Mare", "--ttl", "7d", "--store", mine)
    plan = {row["statement"].split()[4]: row for row in json.loads(ran("consolidate", "--dry-run", "--json", "--store", mine))}
    assert {name for name, row in plan.items() if row["eligible"]} == {"Belm", "Quay", "Tirn", "Wolf"}
    assert "held back" in plan["Orsa"]["reason"] and "cannot expire" in plan["Mare"]["reason"] and plan["Wolf"]["reason"] == "pinned"
    assert "memory   The ferry port of Mare Ume." in ran("consolidate", "--dry-run", "--store", mine)
    done = json.loads(ran("consolidate", *LOOSE, "--json", "--store", mine))
    assert done["generation"] == 3 and {fact["statement"].split()[4] for fact in done["facts"]} == {"Belm", "Quay", "Tirn", "Wolf"}
    assert Path(done["report"]).exists()
    assert "Nothing to do" in ran("consolidate", *LOOSE, "--store", mine)


def test_limits_decide(mine: Path, tmp_path: Path) -> None:
    probes = tmp_path / "probes.jsonl"
    probes.write_text('{"answer": "nowhere"}\n', encoding="utf-8")
    assert "needs a `query`" in run("consolidate", "--probe", probes, "--store", mine).stderr
    assert run("consolidate", "--min-locality", "often", "--store", mine).exit_code == 2
    assert "has no setting 'speed'" in run("consolidate", "--set", "speed=1", "--store", mine).stderr
    with HybridMemory(mine) as memory:
        assert memory.generations.live() == 2, "nothing has changed"
    strict = run("consolidate", "--force", "--min-phrasings", "0", "--min-fluency", "0", "--max-perplexity-drift", "10000%", "--json", "--store", mine)
    told = json.loads(strict.stdout)
    assert strict.exit_code == 0 and told["live"] == 0, "each of them changes its neighbours, so the base is live again"
    assert len(told["dropped"]) == 4 and any("answers around it" in row["reason"] for row in told["dropped"])
    assert json.loads(ran("ask", "The ferry port of Orsa", "--json", "--store", mine))["route"] == "ike"


def test_watch_goes_on_until_it_is_told_to_end(mine: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(4, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        said = ran("consolidate", "--watch", "--every", "1s", *LOOSE, "--store", mine)
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
    assert said.count("Nothing to do: generation 2 holds all") >= 2
    assert run("consolidate", "--watch", "--every", "soon", "--store", mine).exit_code == 2


# -- schedule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "every", "cron", "calendar"),
    [
        (None, None, "0 3 * * *", "*-*-* 03:00:00"),
        ("7:05", None, "5 7 * * *", "*-*-* 07:05:00"),
        (None, "15m", "*/15 * * * *", "*:0/15"),
        (None, "6h", "0 */6 * * *", "*-*-* 0/6:00:00"),
        (None, "1d", "0 0 * * *", "*-*-* 00:00:00"),
    ],
)
def test_schedules(at: str | None, every: str | None, cron: str, calendar: str) -> None:
    made = Schedule.read(at, every)
    assert (made.cron, made.calendar) == (cron, calendar)


@pytest.mark.parametrize(("at", "every"), [("25:00", None), ("noon", None), (None, "7h"), (None, "0m"), (None, "often"), ("03:00", "6h")])
def test_schedules_that_cannot_be(at: str | None, every: str | None) -> None:
    with pytest.raises(ValueError, match=r"--at|--every"):
        Schedule.read(at, every)


def test_odd_names_of_stores_are_quoted(tmp_path: Path) -> None:
    store = tmp_path / "50% of; my $HOME's"
    line = crontab_line(store, Schedule.read(None, None))
    entry = line.removeprefix("0 3 * * * ").rpartition(" >> ")[0].replace("\\%", "%")
    assert "%" not in line.replace("\\%", "")
    echoed = subprocess.run(["sh", "-c", f'for word in {entry}; do echo "$word"; done'], capture_output=True, text=True, check=True).stdout.splitlines()
    assert echoed[-1] == str(store)
    service = next(text for name, text in systemd_units(store, Schedule.read(None, "6h")).items() if name.endswith(".service"))
    assert "50%% of; my $$HOME's" in service


def test_cron_install_status_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a crontab program that keeps its table in a file, and another line in it."""
    table, program = tmp_path / "table", tmp_path / "bin" / "crontab"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nif [ "$1" = -l ]; then cat "{table}"; else cat > "{table}"; fi\n')
    program.chmod(0o755)
    table.write_text("5 5 * * * echo mine\n")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = tmp_path / "store"
    printed = ran("cron", "install", "--every", "6h", "--print", "--store", store)
    assert printed.startswith("0 */6 * * * ") and f"consolidate --store {store}" in printed and table.read_text() == "5 5 * * * echo mine\n"
    assert "OnCalendar=*-*-* 0/6:00:00" in ran("cron", "install", "--every", "6h", "--with", "systemd", "--print", "--store", store)
    assert run("cron", "install", "--store", store, given="n\n").exit_code == 1 and "echo mine" in table.read_text()
    ran("cron", "install", "--at", "04:30", "--yes", "--store", store)
    ran("cron", "install", "--every", "6h", "--yes", "--store", store)
    assert table.read_text() == f"5 5 * * * echo mine\n{printed}"
    assert ran("cron", "status", "--store", store) == printed
    assert "Nothing is scheduled" in ran("cron", "status", "--store", tmp_path / "other")
    assert "Removed" in ran("cron", "remove", "--yes", "--store", store)
    assert table.read_text() == "5 5 * * * echo mine\n"
    assert run("cron", "remove", "--yes", "--store", store).exit_code == 3
