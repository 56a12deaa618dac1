"""A store remembers which model and embedder it was made with, and refuses others."""

from __future__ import annotations

from stores.errors import Conflict
from stores.ledger import Ledger
from stores.records import Identity


def hold_to(ledger: Ledger, role: str, identity: Identity) -> None:
    """Remember what the store is made with in a role ('model' or 'embedder'), or check that it is still the same.

    Raises:
        Conflict: if it was made with other weights; the message names the command that adopts these.
    """
    stored = ledger.identity(role)
    if stored is None:
        ledger.identify(role, identity)
        ledger.set(role, identity.name)
    elif stored.weights_hash != identity.weights_hash:
        raise Conflict(
            f"this store was made with the {role} {stored}, not with {identity}; go back to it with --{role} {stored.name}, "
            f"or run `hybrid reindex --{role} {identity.name}`"
        )
