"""What commands share: the options of those that work on a store and of those that work on a model, opening either, printing JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory
    from stores.records import Fact


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str, option: str) -> int:
    """A length of time: 30m, 12h, 7d, 2w."""
    number, unit = text.strip()[:-1], UNITS.get(text.strip()[-1:])
    if unit is None or not number.isdecimal() or not int(number):
        raise click.BadParameter(f"{text!r}; write a number and s, m, h, d or w, such as 7d", param_hint=option)
    return int(number) * unit


def default_store() -> Path:
    """`HYBRID_HOME`, or the user's data folder."""
    from platformdirs import user_data_path

    return Path(os.environ["HYBRID_HOME"]) if os.environ.get("HYBRID_HOME") else user_data_path("hybrid")


def store_options(command: Callable[..., None]) -> Callable[..., None]:
    """--store, --model, --embedder and --json; the command gets an open memory as its first argument."""

    @click.option("--store", type=click.Path(file_okay=False, path_type=Path), envvar="HYBRID_HOME", help="Folder of the store.  [env: HYBRID_HOME]")
    @click.option("--model", help="Hugging Face causal model, by name or folder; remembered by the store.  [default: pocket]")
    @click.option("--embedder", help="sentence-transformers model, by name or folder; remembered.  [default: all-MiniLM-L6-v2]")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
    @wraps(command)
    def opened(store: Path | None, model: str | None, embedder: str | None, as_json: bool, **options: Any) -> None:
        quiet()
        with open_store(store, model, embedder) as memory:
            command(memory, as_json=as_json, **options)

    return opened


def quiet() -> None:
    """Other libraries' noise, before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def open_store(store: Path | None, model: str | None, embedder: str | None) -> Iterator[HybridMemory]:
    """The memory of a store, closed at the end."""
    from hybrid.memory import HybridMemory

    with HybridMemory(store or default_store(), model=model, embedder=embedder) as memory:
        yield memory


def show(value: Any) -> None:
    """One JSON value on a line of stdout."""
    click.echo(json.dumps(value, ensure_ascii=False))


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """--model, --device, --dtype and --json; the command gets a model that is not loaded yet as its first argument."""

    @click.option("--model", "name", default="pocket", show_default=True, help="Hugging Face causal model, by name or folder.")
    @click.option("--device", help="cpu, cuda, cuda:1, ...  [default: cuda if there is one]")
    @click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Load the weights as this.  [default: as they are stored]")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
    @wraps(command)
    def opened(name: str, device: str | None, dtype: str | None, as_json: bool, **options: Any) -> None:
        from hybrid.model import LanguageModel

        command(LanguageModel(name, device, dtype), as_json=as_json, **options)

    return opened


def settings(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """`--set layers=3,4,5 --set lr=0.1` as a dictionary of texts; `hybrid.editors.published.typed` reads them."""
    made: dict[str, str] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{item!r}; write NAME=VALUE, such as layers=3,4,5")
        made[key.strip()] = value.strip()
    return made


def read_requests(file: Any, name: str, limit: int | None) -> list[Fact]:
    """Requests of a file, as facts without ids."""
    from hybrid.formats import read

    return [request.checked().to_fact("", "", "") for request in read(file, name, limit)]
