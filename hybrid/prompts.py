"""How text goes to a language model: completion, question, new facts and demonstrations.

One place, because a model that is trained to read a format (pocket) must be asked in the same one.
The layout follows IKE (Zheng et al. 2023, arXiv:2305.12740): `New fact: ...`, then the prompt and its answer.
"""

from __future__ import annotations


def query_text(query: str) -> str:
    """What the model completes: a question in question-and-answer form, anything else as it stands."""
    query = query.strip()
    return f"Q: {query}\nA:" if query.endswith("?") else query


def new_fact(statement: str) -> str:
    """One line that tells a fact. Line breaks in stored text are folded: a fact cannot start another line."""
    return f"New fact: {' '.join(statement.split()).rstrip('.')}.\n"


def demonstration(statement: str, query: str, answer: str) -> str:
    """A finished example: the new fact, a query, its answer, an empty line."""
    return f"{new_fact(statement)}{query_text(' '.join(query.split()))} {' '.join(answer.split())}\n\n"


def pointer(subject: str, target: str) -> str:
    """A fact in the fewest words, target first, whatever its relation: what pocket reads best, see `hybrid.answerers`."""
    return new_fact(f"{target} is what {subject} has")


def told(statement: str, subject: str, target: str) -> str:
    """A fact as the counterfactual model that ships is told it, in training and afterwards: the pointer, then the statement."""
    return pointer(subject, target) + new_fact(statement)
