"""Where a text names a subject: as it is stored, or in another spelling of the same name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from rapidfuzz.distance import OSA

from hybrid.scope.adjectives import called_after, countries
from hybrid.scope.ordinary import opening, written
from hybrid.scope.shortened import characters, shortened
from hybrid.scope.words import RANKS, SMALL, plain, same, words

WORD = re.compile(r"\w+")
TITLES = frozenset("dr mr mrs ms miss prof professor sir dame lord lady madam madame captain king queen saint st pope president the".split())
HONOURS = RANKS | set(
    "count countess baron baroness duke duchess prince princess emperor empress bishop archbishop cardinal priest father brother sister reverend honourable "
    "general colonel major captain lieutenant sergeant admiral commander judge justice senator governor minister ambassador".split()
)
"""Titles that are parts of other names, too ("Duke University"): left out only where two words of the name remain."""
DEGREES = frozenset("very right most".split())
"""Before a rank ("Very Rev."), they are part of it."""
TITLE = re.compile(r"(?:^|(?<=\s))(?:[A-Z]/)?([A-Z]\w*)\.? $")
COMPANIES = frozenset("incorporated limited corporation company plc ag gmbh llc llp sa ab nv bv oy spa kg se".split())
"""What stands behind a company's name."""
QUALIFIERS = frozenset("new old north south east west northern southern eastern western upper lower great greater little big saint junior senior jr sr".split())
"""Words that tell one name from another rather than spell it otherwise."""
BEFORE = re.compile(r"(?<=[^\s.:!?] )([A-Z]\w*)\.? $")
"""A capitalised word, not the first of a sentence, right before a name."""
QUALIFIED = re.compile(rf"(?i)\b({'|'.join(sorted(QUALIFIERS))}) $")
"""A qualifier there, also where a sentence begins."""
LONG = 8
"""Letters of a name of one word that may be misspelt; of shorter ones too many are one letter apart (Iran, Iraq)."""
VERY_LONG = 16
"""Letters of a name of several words of which one may be mistaken although the words are divided otherwise, too."""
DIGITS = re.compile(r"\d+")
INSERTED = 3
"""Words that another spelling may have beside the name's own."""
SHORT = (
    "al alan albert alexander alfred", "alex alexander alexandra", "andy andrew", "abe abraham", "ben benjamin", "bert albert robert herbert", "beth betty liz lizzie elizabeth",
    "bill billy will willy willie william", "bob bobby rob robbie robert", "cliff clifford", "ernie ernest", "gus augustus gustav", "hal harold", "wes wesley", "cathy kathy kate catherine katherine kathleen", "charlie chuck charles", "chris christopher christine christina christian",
    "dan danny daniel", "dave davy david", "deb debbie deborah", "dick rick ricky richard", "don donny donald", "doug douglas", "ed eddie ted teddy edward", "ed eddie edwin edgar edmund",
    "frank frankie francis franklin", "fred freddy freddie frederick alfred", "gene eugene", "geoff geoffrey", "jeff jeffrey", "ginny virginia", "greg gregory", "hank harry henry", "herb herbert", "jack johnny john",
    "jan janet janice", "jen jenny jennifer", "jerry gerald jerome", "jess jessie jessica", "jim jimmy jamie james", "joe joey joseph", "jo joanna josephine", "ken kenny kenneth", "larry lawrence laurence", "les leslie lester", "len lenny leonard",
    "leo leonard leopold", "lou louis louise", "maggie meg peggy margaret", "mandy amanda", "matt matthew matthias", "max maximilian maxwell", "meg megan", "mick mickey mike mikey michael", "mitch mitchell", "molly mary", "nancy ann anne",
    "nat nathan nathaniel", "nate nathan nathaniel", "nick nicky nicholas nicolas", "pam pamela", "pat patty patrick patricia", "pete peter", "phil philip phillip", "ray raymond", "ron ronnie ronald", "russ russell", "sally sarah",
    "sam sammy samuel samantha", "sandy alexander alexandra sandra", "steve stevie stephen steven", "stan stanley", "sue susie susan suzanne", "ted theodore", "terry terence teresa", "tim timmy timothy", "toby tobias", "tom tommy thomas",
    "tony anthony antony", "val valerie valentine", "vic victor", "vicky victoria", "walt wally walter", "zach zachary",
)  # fmt: skip
"""Given names and what they are called for short; each group starts with the short forms, which are of four letters at most or end in y or ie, but for these."""
LONGER = frozenset("chris chuck geoff steve vicki".split())


def fold(text: str) -> str:
    """Lower case without accents, character for character."""
    return "".join(unicodedata.normalize("NFKD", c)[0].lower() for c in text)


def span(name: str, text: str) -> tuple[int, int] | None:
    """Where a name stands in a text as whole words, whatever the case and accents, but rather as it is spelt; "TA" does not in "Ta'izz", nor "Neill" in "O'Neill"."""
    found = [each.span() for each in re.finditer(rf"(?<!\w)(?<!\w['’]){re.escape(fold(name))}(?!\w|['’](?!(?:s|d|ll|re|ve|m)\b)\w)", fold(text))]
    return next((where for where in found if text[slice(*where)] == name), found[0] if found else None)


def shared(name: str, text: str) -> float:
    """Share of a name's words that the text has; none if these are but small ones, or one that is an ordinary word there ("The House", "its own house"), or
    if the text has another number or another word in place of one of the name's ("Fire Station 12", "Fire Station 13"; "Harrow Rowing Club", "Harrow Chess
    Club")."""
    own, there = WORD.findall(fold(name)), Counter(WORD.findall(fold(text)))
    if len(own) == 1:
        return float(span(name, text) is not None)
    numbers = {word for word in own if word.isdecimal()}
    if numbers - there.keys() and any(word.isdecimal() for word in there):
        return 0.0
    common = Counter(own) & there
    share, telling = common.total() / max(1, len(own)), common.keys() - SMALL
    if (share < 1 and (not telling or _replaced(name, text))) or (len(telling) == 1 and _common(min(telling), name, text)):
        return 0.0
    return share


def _common(word: str, name: str, text: str) -> bool:
    """Whether the word that a text has of a name is an ordinary one there, in small letters, in the words of somebody who uses capitals."""
    if word not in written() or text.islower() or word in WORD.findall(name):
        return False
    return all(found == found.lower() for found in WORD.findall(text) if fold(found) == word)


def _replaced(name: str, text: str) -> bool:
    """Whether a name of three words or more stands in a text with one of its words replaced: one within, or a capitalised one that is no ordinary word."""
    own, found = ([word for word, _ in words(each)] for each in (name, text))
    for at in range(len(found) - len(own) + 1 if len(own) > 2 else 0):
        apart = [(n, a, b) for n, (a, b) in enumerate(zip(own, found[at:], strict=False)) if not same(a, b)]
        if len(apart) == 1:
            n, a, b = apart[0]
            within = 0 < n < len(own) - 1 and plain(b) not in SMALL
            if plain(a) not in SMALL and not (_slip(a, b) or _initial(a, b) or _called(a, b)) and (within or (b[0].isupper() and plain(b) not in written())):
                return True
    return False


def variant(name: str, text: str) -> tuple[int, int] | None:
    """Where another spelling of a name stands in a text: accents or punctuation written otherwise, words of the name abbreviated, left
    out or added within, words in another order or run together, what stands behind a comma left out, a given name's short form, one letter of a
    long word mistaken, or one of `hybrid.scope.shortened` and `hybrid.scope.adjectives`.

    The first and the last word of a name must be there, in whichever order; a short name of one word has no other spellings but accents.
    """
    own = [word for word, _ in words(name)]
    while (len(own) > 1 and plain(own[0]) in TITLES) or (len(own) > 2 and plain(own[0]) in HONOURS):
        own = own[1:]
    while len(own) > 2 and plain(own[-1]) in COMPANIES:
        own = own[:-1]
    found = words(text)
    if not own or own == [word for word, _ in found]:
        return None
    if (head := _head(name)) is not None and (where := span(head, text) or variant(head, text)) is not None:
        return where
    bag, run = sorted(map(plain, own)), "".join(map(plain, own))
    for length in sorted(range(1, len(own) + INSERTED + 1), key=lambda n: abs(n - len(own))):
        for at in range(len(found) - length + 1):
            window = found[at : at + length]
            other = [word for word, _ in window]
            same_words = length == len(own) >= 3 and bag == sorted(map(plain, other))
            if same_words or _alike(own, other) or _run_alike(run, "".join(map(plain, other))):
                return window[0][1][0], window[-1][1][1]
    return shortened(name, text) or called_after(name, text)


def _head(name: str) -> str | None:
    """A name of several words without what stands behind a comma: a title, a suffix, a place; or a title without what stands behind a colon."""
    head, comma, rest = name.partition(", ")
    if comma and head.count(" ") and rest and not head[0].isdigit():
        return head
    head, colon, rest = name.partition(": ")
    return head if colon and rest and (head.count(" ") or re.search(r"[A-Z].*\d", head)) else None


def longer(where: tuple[int, int], text: str, person: bool = False, thing: bool = False) -> bool:
    """Whether the name at `where` is part of a longer one: beside it, with nothing but a space between, stands another capitalised word or a number.

    A word that begins the sentence counts if it is no ordinary one ("Victoria Land"). A title before it is no part of a name, nor is a rank before two words of one ("Major Anna Berg"; but "Duke University").

    Args:
        person: further given names before two words of a name are the same person's, too.
        thing: what has the name has no title: "Queen" before "Harbour" is a word of another work's.
    """
    start = text[: where[0]]
    before = BEFORE.search(start) or QUALIFIED.search(start) or opening(start)
    after = re.match(r" (?:[A-Z]\w*|\d+\b)", text[where[1] :])
    several = " " in text[slice(*where)].strip().removeprefix("The ")
    titles = TITLES | HONOURS if several else {"the"} if thing else TITLES
    return bool(after) or (before is not None and not _given(before.group(1), person and several) and before.group(1).lower() not in titles)


def _given(word: str, person: bool) -> bool:
    """Whether a word before a person's name of several words may be a further given name."""
    return person and word.lower() not in QUALIFIERS


def titled(where: tuple[int, int], text: str, person: bool = False) -> tuple[int, int]:
    """The name at `where` with the titles, and a person's further given names, that stand before it."""
    start, several = where[0], " " in text[slice(*where)]
    while before := BEFORE.search(text[:start]) or opening(text[:start]):
        if not _given(before.group(1), person and several) and before.group(1).lower() not in TITLES | HONOURS:
            break
        start = before.start(1)
    return start, where[1]


def untitled(where: tuple[int, int], text: str) -> str:
    """The text without the titles and ranks before the name of several words at `where`."""
    start = where[0]
    if " " in text[slice(*where)].strip():
        while (found := TITLE.search(text[:start])) and found.group(1).lower() in TITLES | HONOURS | (DEGREES if start < where[0] else frozenset()):
            start = found.start()
    if start < where[0]:
        start = len(re.sub(r"(?i)\bthe $", "", text[:start]))
    return text[:start] + text[where[0] :]


def spelt_out(text: str) -> str:
    """A text, and behind it names that it has in other forms: countries as adjectives, characters as code points."""
    return " ".join([text, *countries(text), *characters(text)])


def without(name: str, text: str, where: tuple[int, int] | None, pronoun: str) -> str | None:
    """The text with a pronoun for the name that stands at `where`, or else for what the text has of a name's several words; None if that is nothing."""
    if where is None:
        parts = WORD.findall(fold(name))
        hits = [found.span() for found in WORD.finditer(fold(text)) if found.group() in parts and found.group() not in SMALL]
        if len(parts) == 1 or not hits:
            return None
        where = hits[0][0], hits[-1][1]
    return text[: where[0]] + pronoun + text[where[1] :]


@lru_cache(maxsize=1)
def _short() -> dict[str, set[int]]:
    """Groups of a given name."""
    found: dict[str, set[int]] = {}
    for number, names in enumerate(SHORT):
        for each in names.split():
            found.setdefault(each, set()).add(number)
    return found


def _called(a: str, b: str) -> bool:
    """Whether one given name is short for the other."""
    one, two = plain(a), plain(b)
    if not (a[:1].isupper() and b[:1].isupper()) or not _short().get(one, set()) & _short().get(two, set()):
        return False
    return any(len(each) <= 4 or each.endswith(("y", "ie")) or each in LONGER for each in (one, two))


def _initial(a: str, b: str) -> bool:
    """Whether one is a capital letter that the other begins with."""
    return min(len(a), len(b)) == 1 and (a if len(a) == 1 else b).isupper() and plain(a)[:1] == plain(b)[:1]


def _slip(a: str, b: str) -> bool:
    """Whether one letter of a long word is another, missing, added, or in its neighbour's place; or two words are transcribed otherwise (Yuri, Yury)."""
    if min(len(a), len(b)) < 5:
        return min(len(a), len(b)) == 4 and _transcribed(a) == _transcribed(b)
    return not (a + b).isdecimal() and OSA.distance(plain(a), plain(b), score_cutoff=1) <= 1


def _run_alike(a: str, b: str) -> bool:
    """Whether two names are one when their words are run together; one letter of very many may be mistaken ("S-Transferase Mu1")."""
    if min(len(a), len(b)) < VERY_LONG:
        return len(a) >= 6 and a == b
    return a[0] == b[0] and DIGITS.findall(a) == DIGITS.findall(b) and OSA.distance(a, b, score_cutoff=1) <= 1


def _transcribed(word: str) -> str:
    """A word as other transcriptions might spell it, too."""
    return plain(word).replace("ph", "f").translate(str.maketrans("yjcw", "iikv"))


def _but_a_slip(own: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two sequences have the same words in the same order, one of them misspelt at most."""
    apart = [(a, b) for a, b in zip(own, other, strict=False) if not same(a, b)]
    return len(own) == len(other) and len(apart) <= 1 and all(_slip(a, b) for a, b in apart)


def _alike(own: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two sequences of words are one name."""
    if len(own) == 1:
        return len(other) == 1 and (same(own[0], other[0]) or (min(len(own[0]), len(other[0])) >= LONG and other[0][0].isupper() and _slip(own[0], other[0])))
    if len(other) == 1 or not all(word[0].isupper() or word[0].isdigit() or plain(word) in SMALL for word in (own[0], own[-1])):
        return _but_a_slip(own, other)
    if len(own) == 2 and _but_a_slip(own, turned := other[::-1]):
        number = any(word.isdecimal() for word in own) and all(map(same, own, turned))
        return other[0][0].isupper() and not number
    ends = [(own[0], other[0]), (own[-1], other[-1])]
    first = _initial(*ends[0]) or _called(*ends[0])
    slips = sum(not same(a, b) and not (at == 0 and first) for at, (a, b) in enumerate(ends))
    if slips > 1 or any(not (same(a, b) or (at == 0 and first) or _slip(a, b)) for at, (a, b) in enumerate(ends)):
        return False
    mine, theirs = list(own[1:-1]), list(other[1:-1])
    if any(word[0].islower() and plain(word) not in SMALL for word in theirs) or len(theirs) > len(mine) + INSERTED:
        return False
    if {word for word in map(plain, mine) if word in QUALIFIERS} != {word for word in map(plain, theirs) if word in QUALIFIERS}:
        return False
    small = len(mine), len(theirs)
    mine, theirs = ([word for word in words if plain(word) not in SMALL] for words in (mine, theirs))
    if len(theirs) > len(mine) and small[1] - len(theirs) < small[0] - len(mine):
        return False  # a word in the place of a small one: "Lord of the Dance", "Lord of Flemish Dance"
    return _subsequence(mine, theirs) or _subsequence(theirs, mine)


def _subsequence(short: Sequence[str], long: Sequence[str]) -> bool:
    """Whether all words of one stand in the other in order; an initial stands for its word."""
    rest = iter(long)
    return all(any(same(word, each) or _initial(word, each) for each in rest) for word in short)
