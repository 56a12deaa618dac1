"""A hybrid retrieval-plus-edit memory for open-weight language models.

Names are loaded when they are first used, so that `hybrid --help` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "HybridMemory": "hybrid.memory",
    "Answer": "hybrid.answer",
    "LanguageModel": "hybrid.model",
    "Embedder": "hybrid.embedder",
    "Fact": "stores.records",
    "HybridError": "stores.errors",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hybrid' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
