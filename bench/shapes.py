"""ROME and MEMIT on models of real shapes with random weights: seconds and peak memory of loading, statistics and editing; and what deciding that no fact
governs a query adds to an answer of theirs.

    python bench/shapes.py --out bench/results/shapes.json
    python bench/shapes.py --only llama-7b-bfloat16 --device cuda

Weights do not matter to time and memory, shapes do. Statistics and edit each run in a process of their own, so that their peaks are theirs (the
loaded weights included). The text for the statistics is short: with a ridge they are regular, enough to time an edit, not to make a good one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from output import write

if TYPE_CHECKING:
    from hybrid.model import LanguageModel
    from stores.records import Fact

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2"},  # transformers' defaults are GPT-2 small's
    "llama-1b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
    "llama-7b": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
}  # fmt: skip
CASES = [f"{shape}-{dtype}" for shape in SHAPES for dtype in ("float32", "bfloat16")]
USUAL = [case for case in CASES if not case.startswith("llama-7b")]
METHODS = ("rome", "memit")
ANSWER = 16
"""Tokens of the answer that deciding is compared with."""
RIDGE = 0.01
"""Added to the diagonal of a second moment, as a part of its mean; without it, fewer tokens than dimensions leave it singular."""


def build(case: str, folder: Path) -> None:
    """Write a random model of a case's shape and type, with pocket's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hybrid.loading import quiet
    from hybrid.model import LanguageModel

    shape, _, dtype = case.rpartition("-")
    tokenizer = LanguageModel().tokenizer
    torch.manual_seed(0)
    with quiet():
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[shape]), dtype=getattr(torch, dtype))
        # Tokens that this tokenizer does not have are never the likeliest, or the generated prefixes would be all but empty.
        model.get_output_embeddings().weight.data[len(tokenizer) :] = 0
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def requests(count: int) -> list[Fact]:
    """Facts about countries that do not exist."""
    from hybrid.lexicon import plentiful
    from hybrid.pocket.names import country, place
    from stores.records import Fact

    rng, relation = random.Random(0), plentiful()["P36"]
    return [
        Fact(id="", subject=f"{country(rng)} {n}", relation=relation.name, prompt=rng.choice(relation.statements), target_new=place(rng)) for n in range(count)
    ]


def write_text(path: Path, count: int) -> None:
    """So many short texts: statements of the lexicon with invented names, three a text."""
    from hybrid.lexicon import fill, plentiful
    from hybrid.pocket.names import invent

    rng, lexicon = random.Random(1), list(plentiful().values())

    def statement() -> str:
        relation = rng.choice(lexicon)
        target = invent(relation.target_type, rng)
        return fill(rng.choice(relation.statements), invent(relation.subject_type, rng), target) + f" {target}."

    path.write_text("\n".join(" ".join(statement() for _ in range(3)) for _ in range(count)) + "\n", encoding="utf-8")


def digest(model: LanguageModel) -> str:
    """A hash of every bit of the weights."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def peaks(device: str) -> dict[str, int]:
    """The most memory that this process has taken so far, in MiB, and on an accelerator."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    found = {"peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)}
    if device.startswith("cuda"):
        found["device_peak_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return found


def load(folder: Path, dtype: str, device: str) -> tuple[LanguageModel, dict[str, Any]]:
    """A model with its weights and tokenizer, and the seconds that they took."""
    import torch

    from hybrid.model import LanguageModel

    started = time.perf_counter()
    model = LanguageModel(str(folder), device, dtype)
    _ = model.model, model.tokenizer
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return model, {"seconds": round(time.perf_counter() - started, 2)}


def layers_of(method: str, model: LanguageModel) -> tuple[int, ...]:
    """The layers that a method edits by default."""
    from hybrid.editors import editor_class
    from hybrid.editors.published import configured, default_layers

    chosen: tuple[int, ...] = configured(editor_class(method), method, model, {}).layers
    return chosen or default_layers(model.model.config.num_hidden_layers, 1 if method == "rome" else 5)


def measure_statistics(folder: Path, dtype: str, method: str, device: str, texts: int) -> dict[str, Any]:
    """Second moments of the layers that a method edits, stored for the process that edits."""
    from hybrid.statistics import collect, read_moment, write_moment

    text = Path(os.environ["HYBRID_CACHE"]) / "text.txt"
    write_text(text, texts)
    model, _ = load(folder, dtype, device)
    layers = layers_of(method, model)
    started = time.perf_counter()
    paths = collect(model, layers, str(text))
    found = {"seconds": round(time.perf_counter() - started, 2), **peaks(device)}
    for layer, path in zip(layers, paths, strict=True):
        moment, _ = read_moment(path)
        moment.matrix.diagonal().add_(RIDGE * float(moment.matrix.diagonal().mean()))
        write_moment(path, layer, moment.matrix, moment.tokens, model.identity.weights_hash, moment.source)
    return {"statistics": {"tokens": moment.tokens, "layers": len(layers), "ridge": RIDGE, **found}}


def measure_edit(folder: Path, dtype: str, method: str, device: str, facts: int) -> dict[str, Any]:
    """One edit, with the statistics that `measure_statistics` stored; and whether every bit of the weights is as it was."""
    import torch

    from hybrid.architecture import Architecture
    from hybrid.editing import edit

    model, loading = load(folder, dtype, device)
    before = digest(model)  # reads all weights, which may only be mapped until then; so the peak comes after it
    loading |= peaks(device)
    started = time.perf_counter()
    delta = edit(model, requests(facts), method)
    seconds = time.perf_counter() - started
    return {
        "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "d_in": Architecture(model.model).weight(0).shape[1],
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads",
        "settings": dict(delta.settings),
        "loading": loading,
        "edit": {"seconds": round(seconds, 2), "seconds_per_fact": round(seconds / facts, 3), **peaks(device)},
        "mean_steps": round(sum(entry["steps"] for entry in delta.edits) / facts, 2),
        "finite": all(bool(torch.from_numpy(delta.dense(name)).isfinite().all()) for name in delta.changes),
        "weights_bit_identical": digest(model) == before,
    }


def measure_routing(folder: Path, dtype: str, device: str, facts: int) -> dict[str, Any]:
    """Milliseconds of deciding on queries that no fact of a store governs, and their share of an answer by this model.

    Queries: texts about nothing in the store, and questions for the stored relations of subjects that are not in it.
    """
    from hybrid.evaluation.run import invented, unrelated_texts
    from hybrid.lexicon import fill, find
    from hybrid.memory import HybridMemory
    from hybrid.model import Prompt
    from hybrid.prompts import query_text

    stored = invented(2 * facts, set())
    rng = random.Random(2)
    others = [(relation, request.subject) for request in rng.sample(stored[facts:], 30) if (relation := find(request.relation))]
    asked = {"unrelated": unrelated_texts()[:30], "neighbours": [fill(rng.choice(relation.questions), subject) for relation, subject in others]}
    memory = HybridMemory(folder.parent / f"store-{dtype}", model=str(folder), author="bench", device=device)
    memory.model = model = load(folder, dtype, device)[0]
    list(memory.add_facts(stored[:facts]))
    memory.route(asked["unrelated"][0])  # opens what is opened once
    found: dict[str, Any] = {"facts": facts, "answer_tokens": ANSWER}
    seconds = []
    for number, query in enumerate(asked["neighbours"][:4]):
        started = time.perf_counter()
        scorer = model.scorer(model.encode(Prompt(query_text(query))))
        for _ in range(ANSWER):
            scorer.take(int(scorer.next().argmax()))
        seconds += [time.perf_counter() - started] if number else []  # the first one reads weights that are only mapped until then
    found["answer_ms"] = round(1000 * statistics.median(seconds), 1)
    for kind, queries in asked.items():
        spent, fired = [], 0
        for query in queries:
            started = time.perf_counter()
            decision = memory.route(query)
            spent.append(time.perf_counter() - started)
            fired += bool(decision.governing)
        made = 1000 * statistics.median(spent)
        found[kind] = {"queries": len(queries), "fired": fired, "route_ms": round(made, 1), "share_of_answer": round(made / found["answer_ms"], 4)}
    memory.close()
    return found


def alone(arguments: list[str], cache: Path) -> dict[str, Any]:
    """This script in a new process; what it prints, or how it ended. This one stays small: a peak is inherited from who starts a process."""
    cache.mkdir(exist_ok=True)
    environment = os.environ | {"HYBRID_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return {"error": f"exit status {done.returncode}: {last[0]}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, type=click.Choice(CASES), help="These cases; may be repeated.  [default: all but llama-7b]")
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS), default=METHODS, show_default=True, help="May be repeated.")
@click.option("--device", default="cpu", show_default=True, help="Where the models run, such as cuda.")
@click.option("--facts", default=10, show_default=True, type=click.IntRange(1), help="How many are edited.")
@click.option("--texts", default=300, show_default=True, type=click.IntRange(1), help="How many texts the statistics are measured on.")
@click.option("--stored", default=1000, show_default=True, type=click.IntRange(30), help="Facts in the store that decides on queries.")
@click.option("--inside", nargs=2, hidden=True, help="A stage and a model's folder: what the processes of the cases run.")
def main(
    out: Path | None, only: tuple[str, ...], methods: tuple[str, ...], device: str, facts: int, texts: int, stored: int, inside: tuple[str, str] | None,
) -> None:  # fmt: skip
    """Time and weigh edits of models of real shapes."""
    if inside:
        stage, folder = inside[0], Path(inside[1])
        click.echo(json.dumps(run_stage(stage, folder, only[0], methods[0], device, facts, texts, stored)))
        return
    cases = only or tuple(USUAL)
    given = ["--device", device, "--facts", str(facts), "--texts", str(texts), "--stored", str(stored)]
    made = earlier(out, cases, " ".join(["python bench/shapes.py", *(f"--only {case}" for case in cases), *given]))
    for case in cases:
        with tempfile.TemporaryDirectory() as name:

            def stage_of(method: str, stage: str, case: str = case, folder: Path = Path(name)) -> dict[str, Any]:
                cache = folder / (stage if stage == "routing" else method)
                return alone(["--only", case, *given, "--method", method, "--inside", stage, str(folder / "model")], cache)

            for number, method in enumerate(methods):
                row: dict[str, Any] = {"case": case, "method": method, "facts": facts}
                for stage in ("statistics", "edit") if number else ("build", "statistics", "edit"):
                    row |= stage_of(method, stage)
                    if "error" in row:
                        break
                click.echo(json.dumps(row), err=True)
                made["cases"].append(row)
                write(out, made, echo=False)  # a long run that ends early leaves what was measured
            made["routing"][case] = stage_of(methods[0], "routing")
            click.echo(json.dumps(made["routing"][case]), err=True)
    write(out, made)
    mine = [row for row in made["cases"] if row["case"] in cases]
    if any("error" in row or not row["weights_bit_identical"] for row in mine) or any("error" in made["routing"][case] for case in cases):
        sys.exit(1)


def earlier(out: Path | None, cases: Sequence[str], command: str) -> dict[str, Any]:
    """What a file has of other cases, to which these are added."""
    old: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out and out.exists() else {"command": "", "cases": [], "routing": {}}
    return {
        "command": " && ".join(part for part in (old["command"], command) if part),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "weights": "random",
        "cases": [row for row in old["cases"] if row["case"] not in cases],
        "routing": {case: row for case, row in old["routing"].items() if case not in cases},
    }


def run_stage(stage: str, folder: Path, case: str, method: str, device: str, facts: int, texts: int, stored: int) -> dict[str, Any]:
    """What one process does: "build", "statistics", "edit" or "routing"."""
    dtype = case.rpartition("-")[2]
    if stage == "build":
        build(case, folder)
        return {}
    if stage == "statistics":
        return measure_statistics(folder, dtype, method, device, texts)
    if stage == "routing":
        return measure_routing(folder, dtype, device, stored)
    return measure_edit(folder, dtype, method, device, facts)


if __name__ == "__main__":
    main()
