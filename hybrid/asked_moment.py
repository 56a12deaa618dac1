"""When a query asks about: "who was ... in 2019?" asks about 2019, a query without a date about now."""

from __future__ import annotations

import re
from datetime import UTC, datetime

MONTHS = "january february march april may june july august september october november december".split()
LEAD = r"\b(?:in|on|during|as of|back in|since|at|by|around|for) (?:the year |early |late |mid-|mid )?"
MONTH = "|".join(MONTHS)
DATED = re.compile(
    rf"(?i){LEAD}(?:(?P<iso>\d{{4}}-\d{{2}}(?:-\d{{2}})?)|(?P<day>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?(?P<m1>{MONTH}),? (?P<y1>\d{{4}})"
    rf"|(?P<m2>{MONTH})(?: (?P<d2>\d{{1,2}})(?:st|nd|rd|th)?)?,? (?P<y2>\d{{4}})|(?P<y3>1\d{{3}}|2\d{{3}}))(?![\w-])"
)


def asked_moment(query: str) -> str | None:
    """The moment (ISO 8601, UTC) that the last date in a query means, the middle of a month or a year; None if it has no date that exists."""
    found = [moment for match in DATED.finditer(query) if (moment := _moment(match)) is not None]
    return found[-1].isoformat(timespec="microseconds") if found else None


def undated(query: str, told: str = "") -> str:
    """The query without the dates that it asks about, but for those that a fact's own words `told` have."""

    def without(match: re.Match[str]) -> str:
        return match[0] if _moment(match) is None or match[0].split()[-1] in told else ""

    bare = re.sub(r"\s+([?.!,;:])", r"\1", " ".join(DATED.sub(without, query).split())).lstrip(",;: ")
    return bare[:1].upper() + bare[1:] if query[:1].isupper() else bare


def _moment(match: re.Match[str]) -> datetime | None:
    if match["iso"]:
        year, month, *rest = map(int, match["iso"].split("-"))
        day = rest[0] if rest else 15
    else:
        year = int(match["y1"] or match["y2"] or match["y3"])
        name = (match["m1"] or match["m2"] or "july").casefold()
        month, day = MONTHS.index(name) + 1, int(match["day"] or match["d2"] or (1 if match["y3"] else 15))
    try:
        return datetime(year, month, day, 12, tzinfo=UTC)
    except ValueError:
        return None
