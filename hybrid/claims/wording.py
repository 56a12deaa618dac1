"""Queries that are answered with yes or no: claims that are put for judgement, and questions that begin with a verb."""

from __future__ import annotations

import re

TRUE = re.compile(r"(?i)^(?:is|isn't|was) it (?:really |actually |indeed )?(?:true|correct|right|accurate|the case|a fact) (?:that )?(?P<claim>\S.+?)\??$")
FALSE = re.compile(
    r"(?i)^(?:(?:true or false|yes or no|right or wrong|fact or fiction)(?: ?[:?,–-] *| )|(?:true|fact|claim|verify|fact[- ]check) ?[:?] *)(?P<claim>\S.+?)$"
)
"""With `TRUE`: what puts a claim for judgement, and stands before it."""
BEHIND = re.compile(r"(?i)^(?P<claim>\S.+?)(?:[.,:;?!–-] *|, )(?:true or false|yes or no|right or wrong|is (?:that|this|it) (?:true|correct|right|so))\??$")
"""The same behind it."""
TAG = re.compile(
    r"(?i)^(?P<claim>\S.+?), (?:right|correct|true|no|yes|(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would)(?:n['’]t)? (?:it|he|she|they|that|this|there))\?$"
)
"""A sentence that ends by asking whether it is so."""
ASKED = re.compile(
    r"(?i)^(?:(?:so|and|but|well|then|hey|hi|now|ok|okay),? )*(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|must)(?:n['’]t)? (?P<rest>\S.+?)\?$"
)
"""A question that begins with a verb."""
REQUEST = re.compile(r"(?i)^(?:you|i|u|anyone|anybody|someone|somebody|any of you)\b(?! (?:use|have|own|belong|report|get to|need to)\b)")
"""What stands behind the verb of a question that asks for more than yes or no ("Do you know ...", "Can I ask ...")."""
INDIRECT = re.compile(
    r"(?i)\b(?:know|known|tell|told|says?|said|clear|remembers?|recall|idea|sure|certain|explain|reveal(?:ed)?|recorded|documented|decided|public|word) "
    r"(?:\w+ ){0,3}?(?:who|whom|whose|what|which|when|where|why|how)\b|\bor\b"
)
"""What makes it ask for a thing ("Is it known who ..."), or for one of two."""


def claim(query: str) -> str | None:
    """What a query wants judged: a sentence or a yes/no question; None if it asks for anything else.

    Args:
        query: its last sentence.
    """
    said = " ".join(query.split())
    for pattern in (TRUE, FALSE, BEHIND, TAG):
        if (found := pattern.match(said)) is not None:
            inner = found["claim"].rstrip(" .,;:?!")
            asked = None if pattern is TAG else claim(f"{inner}?")
            return asked or f"{inner[:1].upper()}{inner[1:]}."
    found = ASKED.match(said)
    if found is None or REQUEST.match(found["rest"]) or INDIRECT.search(found["rest"]):
        return None
    return said[:1].upper() + said[1:]
