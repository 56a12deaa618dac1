"""How long MEMIT takes: our editor against the plain transcription of the paper's equations, and one more fact against a cached set.

    python bench/speed.py --out bench/results/speed.json

Both sides get the same wrong facts about countries, settings, prefixes, statistics and threads, on the shipped model in
float32. The transcription (`tests/reference.py`) takes one fact at a time and runs the whole model at every step, as the authors' search for
values does; it also takes its keys one fact at a time, where the authors batch them, so the search is timed by itself on both sides.
"""

from __future__ import annotations

import os
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from output import write

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests/reference.py, which is not installed

from hybrid.architecture import frozen
from hybrid.commands.editing import settings as read_settings
from hybrid.editing import edit
from hybrid.editors import locate_and_edit
from hybrid.editors.contexts import context_prefixes
from hybrid.editors.memit import Memit
from hybrid.editors.published import configured, typed
from hybrid.editors.requests import refuse_known
from hybrid.lexicon import fill, plentiful
from hybrid.model import LanguageModel
from hybrid.pocket.names import invent
from hybrid.statistics import SecondMoment, collect, second_moments
from stores.deltas import Delta
from stores.errors import BadRequest, NotFound
from stores.records import Fact
from stores.values import ValueStore
from tests import reference

DEFAULTS = {"layers": (1, 2), "steps": 25, "lr": 5.0, "clamp": 4.0, "decay": 0.001, "weight": 30.0, "questions": 0, "wordings": 0}
REPEATS = 3

COUNTRIES = {
    "Europe": """Albania: Tirana, Austria: Vienna, Belarus: Minsk, Belgium: Brussels, Bulgaria: Sofia, Croatia: Zagreb, Denmark: Copenhagen,
        Estonia: Tallinn, Finland: Helsinki, France: Paris, Germany: Berlin, Greece: Athens, Hungary: Budapest, Iceland: Reykjavik, Ireland: Dublin,
        Italy: Rome, Latvia: Riga, Lithuania: Vilnius, Malta: Valletta, Moldova: Chisinau, Norway: Oslo, Poland: Warsaw, Portugal: Lisbon,
        Romania: Bucharest, Serbia: Belgrade, Slovakia: Bratislava, Slovenia: Ljubljana, Spain: Madrid, Sweden: Stockholm, Switzerland: Bern,
        Ukraine: Kyiv, United Kingdom: London""",
    "Asia": """Afghanistan: Kabul, Bangladesh: Dhaka, Bhutan: Thimphu, Cambodia: Phnom Penh, China: Beijing, India: New Delhi, Iran: Tehran,
        Iraq: Baghdad, Japan: Tokyo, Jordan: Amman, Kuwait: Kuwait City, Kyrgyzstan: Bishkek, Laos: Vientiane, Lebanon: Beirut, Malaysia: Kuala Lumpur,
        Mongolia: Ulaanbaatar, Nepal: Kathmandu, Oman: Muscat, Pakistan: Islamabad, Philippines: Manila, Qatar: Doha, Saudi Arabia: Riyadh,
        South Korea: Seoul, Syria: Damascus, Tajikistan: Dushanbe, Thailand: Bangkok, Uzbekistan: Tashkent, Vietnam: Hanoi""",
    "Africa": """Algeria: Algiers, Angola: Luanda, Botswana: Gaborone, Burkina Faso: Ouagadougou, Cameroon: Yaoundé, Chad: N'Djamena, Eritrea: Asmara,
        Ethiopia: Addis Ababa, Gabon: Libreville, Ghana: Accra, Guinea: Conakry, Kenya: Nairobi, Liberia: Monrovia, Libya: Tripoli,
        Madagascar: Antananarivo, Malawi: Lilongwe, Mali: Bamako, Mauritania: Nouakchott, Morocco: Rabat, Mozambique: Maputo, Namibia: Windhoek,
        Niger: Niamey, Nigeria: Abuja, Rwanda: Kigali, Senegal: Dakar, Sierra Leone: Freetown, Somalia: Mogadishu, Sudan: Khartoum, Togo: Lomé,
        Tunisia: Tunis, Uganda: Kampala, Zambia: Lusaka, Zimbabwe: Harare""",
    "North America": """Bahamas: Nassau, Barbados: Bridgetown, Canada: Ottawa, Costa Rica: San José, Cuba: Havana, Dominica: Roseau,
        El Salvador: San Salvador, Grenada: St. George's, Guatemala: Guatemala City, Haiti: Port-au-Prince, Honduras: Tegucigalpa, Jamaica: Kingston,
        Mexico: Mexico City, Nicaragua: Managua, Panama: Panama City""",
    "South America": """Argentina: Buenos Aires, Brazil: Brasília, Chile: Santiago, Colombia: Bogotá, Ecuador: Quito, Guyana: Georgetown,
        Paraguay: Asunción, Peru: Lima, Suriname: Paramaribo, Uruguay: Montevideo, Venezuela: Caracas""",
}
LANGUAGES = "Estonia: Estonian, Iceland: Icelandic, Japan: Japanese, Laos: Lao, Latvia: Latvian, Lithuania: Lithuanian, Mongolia: Mongolian, Thailand: Thai"
CURRENCIES = "Bangladesh: taka, Cambodia: riel, Ghana: cedi, Guatemala: quetzal, Hungary: forint, Japan: yen, Malaysia: ringgit, Nigeria: naira, Thailand: baht"


def table(text: str) -> dict[str, str]:
    """ "a: b, c: d" as a dictionary."""
    return {name.strip(): value for name, value in (item.split(": ") for item in text.split(","))}


def known() -> dict[str, dict[str, str]]:
    """Relation of the lexicon -> country -> what is true. No language and no currency here is another country's of the list."""
    capitals = {continent: table(text) for continent, text in COUNTRIES.items()}
    return {
        "P36": {country: capital for each in capitals.values() for country, capital in each.items()},
        "P37": table(LANGUAGES),
        "P38": table(CURRENCIES),
        "P30": {country: continent for continent, each in capitals.items() for country in each},
    }


def counterfactuals(model: LanguageModel, count: int, seed: int) -> list[Fact]:
    """As many wrong facts, each about another country; none that the model takes for true.

    Raises:
        click.UsageError: if there are not so many countries.
    """
    rng, true, made = random.Random(seed), known(), []
    countries = sorted(true["P36"])
    rng.shuffle(countries)
    for number, country in enumerate(countries):
        key = list(true)[number % len(true)]
        relation = plentiful()[key]
        target = rng.choice(sorted(set(true[key].values()) - {true[key].get(country)}))
        fact = Fact(id="", subject=country, relation=relation.name, prompt=rng.choice(relation.statements), target_new=target)
        try:
            refuse_known(model, [(1, fact)])
        except BadRequest:
            continue
        made.append(fact)
        if len(made) == count:
            return made
    raise click.UsageError(f"there are {len(made)} facts, not {count}; ask for fewer with --facts")


def write_text(path: Path, seed: int) -> None:
    """Statements of the lexicon, true ones about countries and invented ones for every relation, six a line."""
    rng = random.Random(seed)
    said = [fill(prompt, s, t) + f" {t}." for key, pairs in known().items() for s, t in pairs.items() for prompt in plentiful()[key].statements]
    for relation in plentiful().values():
        pairs = [(invent(relation.subject_type, rng), invent(relation.target_type, rng)) for _ in relation.statements]
        said += [fill(prompt, s, t) + f" {t}." for prompt, (s, t) in zip(relation.statements, pairs, strict=True)]
    rng.shuffle(said)
    path.write_text("\n".join(" ".join(said[i : i + 6]) for i in range(0, len(said), 6)) + "\n", encoding="utf-8")


def moments(model: LanguageModel, layers: Sequence[int], folder: Path, seed: int) -> dict[int, SecondMoment]:
    """The model's statistics; measured here, into a folder that does not stay, if there are none."""
    try:
        return second_moments(model, layers)
    except NotFound:
        os.environ["HYBRID_CACHE"] = str(folder / "cache")
        write_text(folder / "statements.txt", seed)
        collect(model, layers, str(folder / "statements.txt"))
        return second_moments(model, layers)


class Stopwatch:
    """A function that sums up how long its calls took."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - started


def timed(function: Callable[..., Any], owner: Any, inner: str) -> tuple[Any, float, float]:
    """What a call returns, its seconds, and the seconds inside one of the functions that it uses."""
    with mock.patch.object(owner, inner, Stopwatch(getattr(owner, inner))) as watch:
        whole = Stopwatch(function)
        return whole(), whole.seconds, watch.seconds


def side(facts: int, runs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Medians over runs (seconds, seconds of the search for values)."""
    seconds, values = (statistics.median(each) for each in zip(*runs, strict=True))
    return {
        "facts": facts,
        "runs": len(runs),
        "seconds": round(seconds, 3),
        "ms_per_fact": round(1000 * seconds / facts, 2),
        "values_ms_per_fact": round(1000 * values / facts, 2),
    }


def differences(ours: Delta, theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Frobenius norm of the difference by the norm of the reference's change, by parameter."""
    return {name: float(f"{np.linalg.norm(ours.dense(name) - dense.numpy()) / np.linalg.norm(dense.numpy()):.3g}") for name, dense in theirs.items()}


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--facts", "count", default=100, show_default=True, type=click.IntRange(1), help="How many are edited at once, and cached before one is added.")
@click.option("--reference-facts", type=click.IntRange(1), help="How many of them the transcription gets, for it is slow.  [default: all]")
@click.option("--threads", type=click.IntRange(1), help="Threads of the processor.  [default: torch's]")
@click.option("--set", "given", multiple=True, callback=read_settings, help="Override a setting of MEMIT: NAME=VALUE; may be repeated.")
@click.option("--seed", default=0, show_default=True)
def main(out: Path | None, count: int, reference_facts: int | None, threads: int | None, given: dict[str, str], seed: int) -> None:
    """Time MEMIT, and the addition of one fact."""
    if threads:
        torch.set_num_threads(threads)
    model = LanguageModel(device="cpu")
    try:
        chosen = DEFAULTS | typed("memit", given)
        editor: Memit = configured(Memit, "memit", model, chosen)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from error
    with tempfile.TemporaryDirectory() as name:
        statistics_ = moments(model, editor.layers, Path(name), seed)
        facts = counterfactuals(model, count + REPEATS, seed)
        prefixes = context_prefixes(model, editor.prefixes)
        covariance = {layer: moment.matrix.double() for layer, moment in statistics_.items()}
        searched = {f.name: getattr(editor, f.name) for f in fields(reference.ValueSettings) if f.name != "layer"}
        wanted = reference.ValueSettings(layer=editor.layers[-1], **searched)

        def ours(requests: Sequence[Fact], cache: ValueStore | None = None) -> tuple[Delta, float, float]:
            return timed(lambda: edit(model, requests, "memit", **chosen, cache=cache), locate_and_edit, "optimise_values")

        def plain(requests: Sequence[Fact]) -> tuple[dict[str, torch.Tensor], float, float]:
            run = (model.model, model.tokenizer, requests, prefixes, covariance, editor.layers, editor.weight, wanted)
            with frozen(model.model):  # as the authors do; it spares the transcription what autograd would keep
                return timed(lambda: reference.memit(*run), reference, "optimise_value")

        first = facts[: min(reference_facts or count, count)]
        ours(facts[:2]), plain(facts[:1])  # what only a process's first call costs
        runs = [ours(facts[:count]) for _ in range(REPEATS)]
        changes, *slow = plain(first)
        beside = runs[0][0] if len(first) == count else ours(first)[0]

        store = ValueStore(Path(name) / "values.db")
        ours(facts[:count], store)
        more = [[*facts[:count], extra] for extra in facts[count:]]  # each time a fact that is not in the cache
        added = side(count + 1, [ours(requests, store)[1:] for requests in more])
        scratch = side(count + 1, [ours(requests)[1:] for requests in more])
        store.close()

    fast, slow_side = side(count, [run[1:] for run in runs]), side(len(first), [(slow[0], slow[1])])
    steps = [entry["steps"] for entry in runs[0][0].edits]
    result = {
        "command": "python bench/speed.py " + shlex.join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "model": str(model.identity),
        "settings": dict(runs[0][0].settings),
        "statistics": {"source": statistics_[editor.layers[-1]].source, "tokens": statistics_[editor.layers[-1]].tokens},
        "editor": fast | {"mean_steps": round(statistics.mean(steps), 2)},
        "reference": slow_side,
        "speedup": round(slow_side["ms_per_fact"] / fast["ms_per_fact"], 2),
        "speedup_of_values": round(slow_side["values_ms_per_fact"] / fast["values_ms_per_fact"], 2),
        "relative_difference": differences(beside, changes),
        "one_more_fact": {"cached": added, "from_scratch": scratch, "ratio": round(added["seconds"] / scratch["seconds"], 4)},
    }
    write(out, result)


if __name__ == "__main__":
    main()
