"""Loading other libraries: those that may be missing, and all without noise (progress bars and load reports between a program's own lines)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from stores.errors import HybridError


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers below errors for as long as something is loaded, and leave its settings as they were."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def optional(module: str, needed_by: str) -> Any:
    """A module of a package that is not among the requirements.

    Raises:
        HybridError: if it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise HybridError(f"{needed_by} needs the {package} library ({error}); install it with `pip install {package}`") from error
