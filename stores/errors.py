"""One family of errors. A message says what happened, the value, and what mends it."""

from __future__ import annotations


class HybridError(Exception):
    """Anything that a user can mend. `exit_code` is what the command line returns."""

    exit_code = 1


class CueError(HybridError):
    """A cue that could not be understood; nothing was stored."""

    exit_code = 2


class FormatError(HybridError):
    """An input file that could not be read; the message names the record."""

    exit_code = 2


class NotFound(HybridError):
    """No such fact, file or model."""

    exit_code = 3


class Conflict(HybridError):
    """A change that contradicts what is stored, or a store that was made with something else."""

    exit_code = 4


class Locked(HybridError):
    """Another process holds the store for longer than anyone should wait."""

    exit_code = 5


class Corrupt(HybridError):
    """Stored data does not match its checksum."""


class UnsupportedModel(HybridError):
    """A model that an editor cannot work on; the message says what to supply."""


class BadRequest(HybridError):
    """An edit request that cannot be carried out; refused before any work."""

    exit_code = 2
