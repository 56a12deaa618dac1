"""Words of names: where they stand, and when two are spellings of one."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

SMALL = frozenset("the a an of and in on for de la le el von van der du al".split())
LETTERS = {"ß": "ss", "ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "þ": "th", "ı": "i", "&": "and"}
UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue"}
WHOLE = {
    "st": "saint", "mt": "mount", "ft": "fort", "jr": "junior", "sr": "senior", "univ": "university", "bros": "brothers", "co": "company", "corp": "corporation",
    "inc": "incorporated", "ltd": "limited", "dept": "department", "intl": "international", "natl": "national", "assn": "association", "govt": "government",
}  # fmt: skip
"""What abbreviations stand for."""
CONSTELLATIONS = dict(
    pair.split("/")
    for pair in (
        "andromedae/andromeda antliae/antlia apodis/apus aquarii/aquarius aquilae/aquila arae/ara arietis/aries aurigae/auriga bootis/bootes caeli/caelum "
        "cancri/cancer canum/canes venaticorum/venatici majoris/major minoris/minor capricorni/capricornus carinae/carina cassiopeiae/cassiopeia "
        "centauri/centaurus cephei/cepheus ceti/cetus chamaeleontis/chamaeleon circini/circinus columbae/columba comae/coma coronae/corona corvi/corvus "
        "crateris/crater crucis/crux cygni/cygnus delphini/delphinus doradus/dorado draconis/draco equulei/equuleus eridani/eridanus fornacis/fornax "
        "geminorum/gemini gruis/grus herculis/hercules horologii/horologium hydrae/hydra hydri/hydrus indi/indus lacertae/lacerta leonis/leo leporis/lepus "
        "librae/libra lupi/lupus lyncis/lynx lyrae/lyra mensae/mensa microscopii/microscopium monocerotis/monoceros muscae/musca normae/norma octantis/octans "
        "ophiuchi/ophiuchus orionis/orion pavonis/pavo pegasi/pegasus persei/perseus phoenicis/phoenix pictoris/pictor piscium/pisces austrini/austrinus "
        "pyxidis/pyxis reticuli/reticulum sagittae/sagitta sagittarii/sagittarius scorpii/scorpius sculptoris/sculptor scuti/scutum serpentis/serpens "
        "sextantis/sextans tauri/taurus telescopii/telescopium trianguli/triangulum tucanae/tucana ursae/ursa velorum/vela virginis/virgo volantis/volans "
        "vulpeculae/vulpecula"
    ).split()
)
"""Genitives of constellations, as stars are named after them, and what the sky's part is called: "61 Cygni", "61 Cygnus"."""
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")

RANKS = frozenset("hon rev capt col gen maj lt sgt adm cmdr gov sen rep".split())
"""Titles of rank, as they are abbreviated."""
ABBREVIATIONS = RANKS | set("dr mr mrs ms prof st mt ft jr sr inc".split())
UNENDED = r"(?<!\b\w\.)" + "".join(rf"(?<!\b{word.capitalize()}\.)" for word in sorted(ABBREVIATIONS))
"""Pattern of what stands behind a full stop that may end a sentence: not behind an initial or an abbreviation."""


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[tuple[str, tuple[int, int]], ...]:
    """Words with their places; apostrophes belong to a word, a possessive's does not."""
    return tuple((found.group(), found.span()) for found in re.finditer(r"\w+(?:['’](?!s\b)\w+)*", text))


@lru_cache(maxsize=65536)
def plain(word: str, written_out: bool = False) -> str:
    """A word without case, accents and apostrophes, umlauts bare or `written_out`; an abbreviation in full, an ordinal as its number ("3rd", as in "3.")."""
    letters = LETTERS | UMLAUTS if written_out else LETTERS
    spelt = "".join(letters.get(c, c) for c in word.lower() if c not in "'’")
    bare = "".join(c for c in unicodedata.normalize("NFKD", spelt) if not unicodedata.combining(c))
    counted = ORDINAL.fullmatch(bare)
    return counted.group(1) if counted is not None else WHOLE.get(bare) or CONSTELLATIONS.get(bare, bare)


def same(a: str, b: str) -> bool:
    """Whether two words are spellings of one: accents apart, an umlaut written out or not, an abbreviation or not."""
    return plain(a) == plain(b) or plain(a, True) == plain(b, True) or plain(a, True) == plain(b) or plain(a) == plain(b, True)
