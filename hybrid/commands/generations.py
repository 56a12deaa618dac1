"""Commands for generations of weights: list, show, compare, prove, roll back, export, delete. Heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import show, store_options
from stores.errors import HybridError

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


@click.group()
def generations() -> None:
    """List, prove, compare, roll back, export and delete generations of weights; 0 is the base.

    \b
    Example:
      hybrid generations list
      hybrid generations rollback 0 --yes
    """


@generations.command("list")
@store_options
def list_(memory: HybridMemory, as_json: bool) -> None:
    """All generations, the live one marked.

    \b
    Example:
      hybrid generations list
    """
    for row in memory.generations.rows():
        if as_json:
            show(row)
            continue
        state = "live" if row["live"] else "" if row["kept"] else "pruned"
        if row["id"] == 0 and not memory.generations.live():
            state = "live"
        click.echo(f"{row['id']:>6}  {state:<6}  {row['created_at'][:19]}  {row['author']:<12}  {row['facts']:>5} facts  {row['weights_hash'][:16]}")


@generations.command("show")
@click.argument("number", type=click.IntRange(0), required=False)
@store_options
def show_(memory: HybridMemory, number: int | None, as_json: bool) -> None:
    """One generation: facts, settings, figures; the live one if no NUMBER is given.

    \b
    Example:
      hybrid generations show 3 --json
    """
    chosen = memory.generations.live() if number is None else number
    if chosen == 0:
        base = memory.generations.base_hash()
        about: dict[str, Any] = {
            "id": 0,
            "weights_hash": base,
            "base_hash": base,
            "facts": [],
            "settings": {},
            "verification": {},
            "created_at": None,
            "author": None,
        }
    else:
        manifest = memory.generations.manifest(chosen)
        by_id = {each: memory.ledger.get(each) for each in manifest.fact_ids}
        facts = [{**fact, "statement": by_id[fact["id"]].statement} for fact in manifest.facts]
        about = {
            "id": manifest.id, "weights_hash": manifest.weights_hash, "base_hash": manifest.base_hash, "facts": facts, "settings": manifest.settings,
            "verification": manifest.verification, "created_at": manifest.created_at, "author": manifest.author, "method": manifest.method,
            "report": str(memory.generations.path(chosen) / "report.html"),
        }  # fmt: skip
    if as_json:
        show(about)
        return
    for name in ("id", "weights_hash", "base_hash", "created_at", "author", "method", "report"):
        click.echo(f"{name:<14}{about.get(name)}")
    for name, value in {**about["settings"], **about["verification"]}.items():
        click.echo(f"  {name:<22}{value}")
    for fact in about["facts"]:
        click.echo(f"  {'weights' if fact['passed'] else 'memory '}  {fact['statement']}.")


@generations.command()
@click.argument("before", type=click.IntRange(0))
@click.argument("after", type=click.IntRange(0))
@store_options
def diff(memory: HybridMemory, before: int, after: int, as_json: bool) -> None:
    """How two generations differ: facts, figures, norms.

    \b
    Example:
      hybrid generations diff 2 3
    """
    from hybrid.consolidation.audit import difference

    found = difference(memory, before, after)
    if as_json:
        show(found)
        return
    for sign, kind in (("+", "added"), ("-", "removed")):
        for fact in found[kind]:
            click.echo(f"{sign} {fact['statement']}.")
    for name, (one, other) in found["figures"].items():
        click.echo(f"  {name:<22}{one}  ->  {other}")
    for name, norm in found["norms"].items():
        click.echo(f"  {name}  changes by {norm:.4g} (Frobenius)")


@generations.command()
@click.argument("number", type=click.IntRange(0), required=False)
@click.option("--solve", is_flag=True, help="Solve it again from the ledger, too.")
@store_options
def verify(memory: HybridMemory, number: int | None, solve: bool, as_json: bool) -> None:
    """Recompute the hashes of a generation: files, base, resulting weights. The live one if no NUMBER is given.

    \b
    Example:
      hybrid generations verify 3 --solve
    """
    from hybrid.consolidation.audit import verify as prove

    proofs = prove(memory, memory.generations.live() if number is None else number, solve=solve)
    if as_json:
        show([vars(proof) for proof in proofs])
    else:
        for proof in proofs:
            click.echo(f"{'ok   ' if proof.ok else 'WRONG'}  {proof.what:<8}  {proof.detail}")
    if not all(proof.ok for proof in proofs):
        raise HybridError("the weights are not what was verified; `hybrid generations rollback 0`, then `hybrid consolidate --force`, makes them anew")


@generations.command()
@click.argument("number", type=click.IntRange(0))
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def rollback(memory: HybridMemory, number: int, yes: bool, as_json: bool) -> None:
    """Make an earlier generation live, to the bit; 0 is the base. Running programs take it up with their next query.

    \b
    Example:
      hybrid generations rollback 0 --yes
    """
    if not yes:
        click.confirm(f"Go from generation {memory.generations.live()} to {number}?", abort=True, err=True)
    digest = memory.rollback(number)
    show({"live": number, "weights_hash": digest}) if as_json else click.echo(f"Generation {number} is live, weights {str(digest)[:16]}.")


@generations.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--format", "form", type=click.Choice(["lora", "merged"]), default="lora", show_default=True, help="PEFT adapter, or merged checkpoint.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Folder to write to.  [default: here]")
@click.option("--max-rank", type=click.IntRange(1), help="Cut an adapter to this rank by singular values; the error is reported.")
@store_options
def export(memory: HybridMemory, number: int, form: str, out: Path, max_rank: int | None, as_json: bool) -> None:
    """Write a generation as a LoRA adapter (exact, in a folder of a unique name) or as a merged checkpoint.

    For llama.cpp, convert the adapter with its convert_lora_to_gguf.py; no maintained package does that.

    \b
    Example:
      hybrid generations export 3 --format lora --out adapters
      hybrid generations export 3 --format merged --out merged-model
    """
    from hybrid.consolidation.export import export as write

    if max_rank is not None and form != "lora":
        raise click.UsageError("--max-rank belongs to --format lora")
    done = write(memory, number, form, out, max_rank)
    if as_json:
        show(done)
    elif form == "lora":
        click.echo(f"{done['path']}: rank {done['rank']}, relative error {done['error']:.2g}")
    else:
        click.echo(f"{done['path']}: {done['rounded_away']} of {done['changed']} changed entries are rounded away in {done['dtype']}")


@generations.command()
@click.option("--keep", type=click.IntRange(0), default=3, show_default=True, help="Keep the last N beside the live one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def prune(memory: HybridMemory, keep: int, yes: bool, as_json: bool) -> None:
    """Delete old generations for good; the live one stays.

    \b
    Example:
      hybrid generations prune --keep 3 --yes
    """
    from stores.lock import exclusive

    live = memory.generations.live()
    others = [number for number in memory.generations.numbers() if number != live]
    old = others[: len(others) - keep]
    if old and not yes:
        click.confirm(f"Delete generations {', '.join(map(str, old))}?", abort=True, err=True)
    with exclusive(memory.folder / "weights.lock"):
        gone = memory.generations.prune(old)
    show({"pruned": gone}) if as_json else click.echo(f"Deleted: {', '.join(map(str, gone)) or 'nothing'}")
