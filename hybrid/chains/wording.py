"""Which words speak for which relation: read off the lexicon's phrasings, once, so that a question's relations are found by look-up."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache

from hybrid.lexicon import Relation, relations
from hybrid.scope.names import fold

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
SMALL = frozenset(
    "a an the of in on at to for from by with as and or is are was were be been being am do does did has have had having can could will would may might "
    "that which who whom whose what where when why how it its it's his her hers their theirs he she they them this these those there here than then so "
    "if not no one ones also any some such s name named called me tell please you i we my our your know into about itself himself herself currently "
    "current now today serve serves serving located situated located lie lies find found given come comes get gets hold holds held go goes become became".split()
) - {"found"}
"""Words that speak for no relation."""
ENDINGS = (
    "ations", "ation", "ships", "ship", "ators", "ator", "ating", "ated", "ates", "ions", "ion", "ings", "ing", "ents", "ent", "ers", "er", "ors", "or",
    "ally", "al", "ies", "ied", "ed", "es", "ure", "ly", "s", "e", "y",
)  # fmt: skip
IRREGULAR = {
    "wrote": "writ", "written": "writ", "born": "birth", "birthplace": "birth", "die": "death", "died": "death", "dies": "death", "dead": "death", "sang": "sing", "sung": "sing", "song": "sing",
    "made": "make", "makes": "make", "making": "make", "maker": "make", "led": "lead", "spoke": "speak", "spoken": "speak", "taught": "teach", "built": "build", "married": "marri",
    "marry": "marri", "marriage": "marri", "lived": "live", "won": "win", "winner": "win", "ran": "run", "belong": "belong", "wives": "wife", "children": "child", "founded": "found",
    "owns": "own", "owned": "own", "owner": "own", "bought": "buy", "ceo": "ceo", "company": "compan", "companies": "compan", "country": "countr", "countries": "countr",
    "product": "product", "products": "product", "creation": "creat", "creator": "creat", "created": "creat", "author": "author", "authored": "author",
}  # fmt: skip
WEAK = 0.3
"""Strength from which a word counts as one of a relation's."""


@lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """A word without its ending, roughly: `founder`, `founded` and `founding` are one; empty for a word that tells nothing."""
    word = (word.lower() if word.isascii() else fold(word).replace("’", "'")).removesuffix("'s").removesuffix("'")
    if word in SMALL:
        return ""
    if word in IRREGULAR:
        return IRREGULAR[word]
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def content(text: str) -> list[str]:
    """Stems of the words that may speak for a relation, in order."""
    return [each for each in map(stem, WORD.findall(text)) if each]


def counted(texts: Iterable[str]) -> Counter[str]:
    """In how many texts each word (stem) stands."""
    return Counter(word for text in texts for word in set(content(text.replace("{}", " ").replace("[]", " "))))


@lru_cache(maxsize=1)
def cues() -> Mapping[str, Mapping[str, float]]:
    """Relation id -> word (stem), or name of several words -> how strongly it speaks for the relation, 0 to 1.

    A name says most. A word of the questions says as much as it is frequent in them, or rare elsewhere; one of the statements less. Phrasings that are
    held out are left out.
    """
    asked = {key: counted(relation.questions[:8]) for key, relation in relations().items()}
    used = Counter(word for words in asked.values() for word in words)
    return {key: _of(relation, asked[key], used) for key, relation in relations().items()}


def _of(relation: Relation, asked: Counter[str], used: Counter[str]) -> dict[str, float]:
    others = (*relation.statements[:24], *relation.oblique[:8], *relation.target_first[:8])
    found = {word: min(0.7, 3 * count / max(10, len(others))) for word, count in counted(others).items()}
    for word, count in asked.items():
        rare = 0.9 * (1 - math.log(used[word]) / math.log(len(relations()))) ** 2
        found[word] = max(found.get(word, 0.0), rare, 0.9 * min(1.0, 3 * count / min(8, len(relation.questions))))
    for number, name in enumerate(relation.names):
        words = content(name)
        telling = min(words, key=lambda word: used[word], default="")
        for word in words:
            found[word] = max(found.get(word, 0.0), (1.0 if number == 0 or len(words) == 1 else 0.7) if word == telling else 0.5)
        if len(words) > 1:
            found[" ".join(words)] = 1.0
    return found


@lru_cache(maxsize=1)
def by_word() -> Mapping[str, Mapping[str, float]]:
    """Word (stem), or name of several -> relation id -> strength, where it is one of the relation's."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for key, words in cues().items():
        for word, strength in words.items():
            if strength >= WEAK:
                table[word][key] = strength
    return table


@lru_cache(maxsize=512)
def full_names(key: str) -> frozenset[str]:
    """A relation's names, as stems."""
    return frozenset(" ".join(content(name)) for name in relations()[key].names)


def joined(words: list[str]) -> list[tuple[str, ...]]:
    """The words, those together that are a name of a relation; of several names the longest."""
    runs: list[tuple[str, ...]] = []
    at = 0
    while at < len(words):
        length = next((n for n in (4, 3, 2) if " ".join(words[at : at + n]) in by_word() and at + n <= len(words)), 1)
        runs.append(tuple(words[at : at + length]))
        at += length
    return runs


@lru_cache(maxsize=8192)
def rarity(word: str) -> float:
    """How much a word (stem) tells about which relation is meant: 1 for one that a single relation uses, towards 0 for everybody's."""
    count = len(by_word().get(word, ()))
    return 1.0 if count <= 1 else 1.0 - math.log(count) / math.log(len(cues()))


UNKNOWN = 0.35
"""Weight of a word that speaks for no relation of the lexicon: it may describe a thing ("the handgun"), or ask for something else."""


def weight(word: str) -> float:
    """How much a word (stem) of a question counts."""
    return rarity(word) if word in by_word() else UNKNOWN
