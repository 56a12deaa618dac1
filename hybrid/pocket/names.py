"""Invented names: subjects and targets that nobody has heard of, so that a model learns to read, not to choose.

Every kind of entity that the lexicon knows has its own shape (people have surnames, products have model
numbers, works have titles). All of it is made of syllables and common words; nothing is looked up.
"""

from __future__ import annotations

import random
from collections.abc import Callable

ONSETS = "b c d f g h j k l m n p r s t v w b d g k l m n r s t br ch cl dr fl gr kr pr sh st th tr z y".split()
VOWELS = "a e i o u a e i o a e i o u ai ea ee ia oa ou au ü é ö á".split()
CODAS = ["", "", "", "", "", "", *"n r l s m t n r l nd rk ll ng rn v".split()]
LAST = "son ova ez sen mann berg ini escu ström dóttir wala oğlu ic off ard ell ham ley wick stein".split()
TOWN = "ville burg ford ton stad grad pur abad minster mouth field haven holm by dorf ovo ia land".split()
WORDS = (
    "river stone winter garden silver broken hollow last first golden paper night morning empire shadow glass bridge "
    "honest quiet crimson northern distant iron forgotten little red blue ninth seven summer thunder harbour candle "
    "wolf sparrow orchard mirror letter promise voyage island station market tower field signal engine lantern ocean "
    "copper velvet dancing burning secret hidden falling open lost wild green white black long high old new common "
    "valley school house road light dream song story machine window clock soldier queen widow stranger farmer pilot "
    "law order trust action health research liberty justice art music science nature data trade labour power energy"
).split()
GIVEN = (
    "Anna Peter Maria John Li Fatima Carlos Ingrid Kofi Yuki Omar Elena Tom Priya Lars Chloe Ivan Aisha Marco Nora "
    "Hugo Mei Pavel Ruth Samuel Leila Jorge Emma Viktor Alice Dmitri Grace Ahmed Sofia William Rosa Henrik Zara Paul Joan"
).split()
FIRMS = ["Inc.", "Group", "Holdings", "& Sons", "Industries", "Corporation", "Ltd", "AG", "Systems", "Motors", "Brothers", "Labs"]
BODIES = ["Institute of", "University of", "Ministry of", "Society for", "Academy of", "Museum of", "Federation of", "Bank of"]
NATURE = ["Lake", "Mount", "Cape", "River", "Isle of", "Bay of", "Fort", "Port", "Valley of"]
KINDS = ["Province", "County", "District", "River", "Island", "Mountains", "Glacier", "Peninsula", "Forest", "Station"]
MONTHS = "January February March April May June July August September October November December".split()
UNITS = ["kilometres", "people", "euros", "dollars", "metres", "employees", "kilograms", "days", "gigabytes", "years", "hours"]
FIELDS = ["studies", "theory", "engineering", "chemistry", "design", "history", "law", "mechanics"]


def word(rng: random.Random, low: int = 1, high: int = 3) -> str:
    """A made-up word of `low` to `high` syllables, capitalised."""
    syllables = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(low, high)))
    return "".join(syllables).capitalize()


def person(rng: random.Random) -> str:
    """A full name, sometimes with initials, a particle or a numeral."""
    first = rng.choice(GIVEN) if rng.random() < 0.5 else word(rng, 1, 2)
    last = word(rng, 1, 2) + (rng.choice(LAST) if rng.random() < 0.4 else "")
    form = rng.random()
    if form < 0.55:
        return f"{first} {last}"
    if form < 0.65:
        return f"{first} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}"
    if form < 0.75:
        return f"{first} {word(rng, 1, 2)} {last}"
    if form < 0.83:
        return f"{first} {rng.choice(['von', 'de', 'van der', 'al-', 'bin', 'du', 'of'])} {last}".replace("- ", "-")
    if form < 0.9:
        return f"{first}-{word(rng, 1, 2)} {last}"
    return rng.choice([f"{last}", f"{first} {rng.choice(['II', 'III', 'IV'])}", f"{rng.choice(['Sir', 'Saint', 'Lady', 'Dr.'])} {first} {last}"])


def place(rng: random.Random) -> str:
    """A town, or a natural or administrative place."""
    form = rng.random()
    if form < 0.5:
        return word(rng, 1, 2) + (rng.choice(TOWN) if rng.random() < 0.6 else "")
    if form < 0.7:
        return f"{rng.choice(NATURE)} {word(rng)}"
    if form < 0.85:
        return f"{word(rng)} {rng.choice(KINDS)}"
    return f"{rng.choice(['New', 'North', 'Upper', 'San', 'Saint', 'El', 'Le', 'Bad'])} {word(rng)}"


def country(rng: random.Random) -> str:
    """A country."""
    name = word(rng, 1, 3) + rng.choice(["ia", "land", "stan", "", "a"])
    return name if rng.random() < 0.8 else f"{rng.choice(['Republic of', 'Kingdom of', 'United'])} {name}"


def organization(rng: random.Random) -> str:
    """A company, an institute, or initials."""
    form = rng.random()
    if form < 0.4:
        return f"{word(rng)} {rng.choice(FIRMS)}"
    if form < 0.65:
        return f"{word(rng)} {rng.choice(BODIES)} {word(rng) if rng.random() < 0.5 else rng.choice(WORDS).title()}"
    if form < 0.8:
        return "".join(rng.choice("ABCDEFGHIKLMNOPRSTUVW") for _ in range(rng.randint(2, 5)))
    return f"{rng.choice(WORDS).title()} {rng.choice(WORDS).title()} {rng.choice(FIRMS)}" if form < 0.9 else word(rng)


def work(rng: random.Random) -> str:
    """A title."""
    a, b, c = (rng.choice(WORDS).title() for _ in range(3))
    forms = [
        f"The {a} {b}",
        f"{a} of the {b}",
        f"{a} and {b}",
        f"{a}",
        f"The {a}",
        f"My {a} {b}",
        f"{a} in the {b} {c}",
        f"{word(rng)}",
        f"The {a} of {word(rng)}",
        f"{word(rng)}: {a} {b}",
        f"{a} {rng.randint(2, 12)}",
        f"A {a} for {word(rng)}",
    ]
    return rng.choice(forms)


def product(rng: random.Random) -> str:
    """A maker's name and a model."""
    code = f"{rng.choice('ABCDEGKLMRSTVXZ')}{rng.randint(1, 999)}"
    model = rng.choice([code, f"{rng.choice(WORDS).title()}", f"{word(rng)} {rng.randint(1, 900)}", f"{code}-{rng.choice('ABCDX')}", f"{word(rng)}"])
    return f"{word(rng, 1, 2)} {model}" if rng.random() < 0.8 else f"{rng.choice(WORDS).title()} {model}"


def team(rng: random.Random) -> str:
    """A club or a band."""
    tail = rng.choice(["Rovers", "United", "FC", "Wanderers", "Tigers", "Athletic", "Quartet", "Orchestra", "Brothers", "Band"])
    return f"{word(rng)} {tail}" if rng.random() < 0.6 else f"The {rng.choice(WORDS).title()} {rng.choice(WORDS).title()}s"


def language(rng: random.Random) -> str:
    """A language or a people."""
    return word(rng, 1, 2) + rng.choice(["ish", "ese", "ian", "i", "ic", ""])


def concept(rng: random.Random) -> str:
    """A common noun phrase in lower case."""
    form = rng.random()
    if form < 0.4:
        return f"{rng.choice(WORDS)} {rng.choice(WORDS)}"
    if form < 0.6:
        return f"{rng.choice(WORDS)} {rng.choice(FIELDS)}"
    return word(rng, 2, 3).lower() if form < 0.8 else rng.choice(WORDS)


def number(rng: random.Random) -> str:
    """A number or an amount."""
    value = rng.choice([rng.randint(1, 99), rng.randint(100, 9999), rng.randint(1, 999) * 1000])
    plain = f"{value:,}" if rng.random() < 0.5 else str(value)
    return plain if rng.random() < 0.4 else f"{plain} {rng.choice(UNITS)}"


def date(rng: random.Random) -> str:
    """A year or a day."""
    year = rng.randint(1100, 2060)
    return str(year) if rng.random() < 0.6 else f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {year}"


def text(rng: random.Random) -> str:
    """An address, a code, a version: what offices and machines use."""
    a = word(rng, 1, 2).lower()
    forms = [
        f"{rng.choice(['help', 'info', 'office'])}@{a}.{rng.choice(['com', 'org', 'io'])}",
        f"www.{a}.{rng.choice(['org', 'net', 'com'])}",
        f"version {rng.randint(1, 30)}.{rng.randint(0, 9)}",
        f"{rng.randint(1, 12)} {rng.choice(['a.m.', 'p.m.'])}",
        f"room {rng.randint(1, 600)}",
        f".{a[:2]}",
        f"+{rng.randint(1, 1999)}",
        f"{a} {rng.choice(WORDS)}",
        f"{rng.choice(MONTHS)} {rng.randint(1, 28)}",
    ]
    return rng.choice(forms)


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "person": person, "country": country, "city": place, "place": place, "building": place, "continent": place,
    "company": organization, "organization": organization, "team": team, "band": team, "product": product,
    "software": product, "work": work, "event": work, "award": work, "language": language, "religion": language,
    "currency": concept, "genre": concept, "concept": concept, "occupation": concept, "field": concept, "position": concept,
    "species": concept, "chemical": concept, "disease": concept, "sport": concept, "instrument": concept, "color": concept,
    "year": date, "date": date, "number": number, "amount": number, "text": text, "domain": text,
}  # fmt: skip


def invent(kind: str, rng: random.Random) -> str:
    """A name of the kind (a lexicon type); unknown kinds get one of any shape."""
    return MAKERS.get(kind, rng.choice([person, place, organization, work, product]))(rng)


def odd(rng: random.Random) -> str:
    """A name of no usual shape: a long title, a peer or a list entry, another script, brackets, dashes and numbers."""
    form = rng.random()
    if form < 0.3:  # a title of many words
        words = [rng.choice(WORDS) if rng.random() < 0.6 else word(rng) for _ in range(rng.randint(4, 13))]
        for at in range(1, len(words)):
            if rng.random() < 0.25:
                words[at] = rng.choice(["of the", "in", "and", "for", "with", "from", "a", "on the"]) + " " + words[at]
            if rng.random() < 0.12:
                words[at - 1] += rng.choice([":", ",", ",", " –", " -", ";", "."])
        return " ".join(w if rng.random() < 0.3 else w[:1].upper() + w[1:] for w in words)
    if form < 0.45:  # an event, a season, a class
        year = rng.choice(
            [f"{rng.randint(1850, 2030)}", f"{rng.randint(1900, 2030)}–{rng.randint(10, 99)}", f"{rng.randint(1, 120)}th", f"{rng.randint(100, 9999)}"]
        )
        kind = rng.choice(["Championships", "season", "Assembly", "election in", "Games", "Open", "Congress", "Festival", "Cup", "Regiment"])
        last = rng.choice([f" – {rng.choice(WORDS)} {rng.choice(WORDS)}", f" {word(rng)}", "", f" U{rng.randint(10, 60)}"])
        return f"{year} {word(rng)} {rng.choice(WORDS).title()} {kind}{last}"
    if form < 0.6:  # a peer, or as a catalogue has it
        style = rng.choice(["Baron", "Duke of", "Earl of", "Count of", "Viscount", "Lord"])
        return rng.choice(
            [f"{person(rng)}, {rng.randint(4, 19)}th {style} {word(rng)}", f"{word(rng)}, {rng.choice(GIVEN)}", f"{word(rng)}, {rng.choice(GIVEN)} {word(rng)}"]
        )
    if form < 0.75:  # another script, or none that is pronounceable
        low, high = rng.choice([(0x3B1, 0x3C9), (0x430, 0x44F), (0x4E00, 0x9FA0), (0xAC00, 0xD7A0), (0x3042, 0x3093), (0xC0, 0x17F), (0x5D0, 0x5EA)])
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 7)))
    if form < 0.88:  # brackets and quotes
        a, b = place(rng) if rng.random() < 0.5 else work(rng), rng.choice(WORDS)
        return rng.choice(
            [
                f"{a} ({b})",
                f'{a} "{b.title()} {word(rng)}"',
                f"{a} / {b}",
                f"{a} & {word(rng)}",
                f"{a} [{rng.randint(1, 99)}]",
                f"{a} (Vol. {rng.randint(1, 9)})",
            ]
        )
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))
