"""Editors by name. An editor is one file and one line here; it turns requests into a `Delta` and leaves the model as it was."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from stores.errors import NotFound

if TYPE_CHECKING:
    from hybrid.model import LanguageModel
    from stores.deltas import Delta
    from stores.records import Fact


class Editor(Protocol):
    """A frozen dataclass whose fields are its settings."""

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """Turn requests into a delta; the model is bit-identical afterwards, also after an exception."""
        ...


@dataclass(frozen=True)
class Entry:
    """One line of the editors' table."""

    where: str
    paper: str
    kind: str
    needs: str

    def load(self) -> Any:
        """The editor's class."""
        module, _, name = self.where.partition(":")
        return getattr(import_module(module), name)


EDITORS = {
    "rome": Entry("hybrid.editors.rome:Rome", "Meng et al. 2022, arXiv:2202.05262", "locate and edit, one fact at a time", "statistics"),
    "memit": Entry("hybrid.editors.memit:Memit", "Meng et al. 2023, arXiv:2210.07229", "locate and edit, batched, several layers", "statistics"),
    "alphaedit": Entry(
        "hybrid.editors.alphaedit:AlphaEdit", "Fang et al. 2025, arXiv:2410.02355", "locate and edit in the null space of old keys", "statistics"
    ),
    "emmet": Entry("hybrid.editors.emmet:Emmet", "Gupta et al. 2024, arXiv:2403.14236", "locate and edit, batched equality constraint", "statistics"),
    "readout": Entry(
        "hybrid.editors.readout:Readout",
        "after Jiang et al. 2025, arXiv:2502.05628, and Ritter et al. 2018, arXiv:1805.07810",
        "least change with which the target is predicted and the rest stays",
        "statistics",
    ),
    "ft": Entry("hybrid.editors.fine_tune:FineTune", "Zhu et al. 2020, arXiv:2012.00363 (unconstrained)", "fine-tuning of one layer", "nothing"),
    "ft-l": Entry("hybrid.editors.fine_tune:ConstrainedFineTune", "Zhu et al. 2020, arXiv:2012.00363", "fine-tuning of one layer, norm-constrained", "nothing"),
    "lora": Entry("hybrid.editors.lora:Lora", "Hu et al. 2022, arXiv:2106.09685", "low-rank adapters through peft", "nothing"),
    "sparse-ft": Entry(
        "hybrid.editors.sparse_fine_tune:SparseFineTune", "Song et al. 2024, arXiv:2312.11875", "fine-tuning of few weights, against the old answer", "nothing"
    ),
    "kn": Entry(
        "hybrid.editors.knowledge_neurons:KnowledgeNeurons", "Dai et al. 2022, arXiv:2104.08696", "value slots of the neurons that express a fact", "nothing"
    ),
    "mend": Entry(
        "hybrid.editors.mend:Mend", "Mitchell et al. 2022, arXiv:2110.11309", "a trained network edits gradients", "hybrid train mend; pocket's ships"
    ),
    "ke": Entry("hybrid.editors.ke:Ke", "De Cao et al. 2021, arXiv:2104.08164", "a trained network scales gradients", "hybrid train ke; pocket's ships"),
}


ADAPTERS = {
    "t-patcher": Entry("hybrid.adapters.t_patcher:TPatcher", "Huang et al. 2023, arXiv:2301.09785", "adapter: one neuron an error, last layer", "nothing"),
    "melo": Entry("hybrid.adapters.melo:Melo", "Yu et al. 2024, arXiv:2312.11795", "adapter: low-rank blocks found by nearness", "nothing"),
    "wise": Entry("hybrid.adapters.wise:Wise", "Wang et al. 2024, arXiv:2405.14768", "adapter: side memories routed by activation", "nothing"),
    "grace": Entry("hybrid.adapters.grace:Grace", "Hartvigsen et al. 2023, arXiv:2211.11031", "adapter: codebook at one layer", "nothing"),
}
"""Methods that add parameters; what they make is attached to the model, and no weight changes."""


def editor_class(name: str) -> Any:
    """The class of an editor.

    Raises:
        NotFound: if there is none of that name, with the nearest one.
    """
    if name in ADAPTERS:
        raise NotFound(f"{name!r} makes an adapter, and no change of weights; use `hybrid edit --method {name}`, or `hybrid.adapters.base.adapt` in Python")
    if name not in EDITORS:
        near = difflib.get_close_matches(name, (*EDITORS, *ADAPTERS), n=1)
        raise NotFound(f"there is no editor {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}see `hybrid edit --list`")
    return EDITORS[name].load()


def adapter_class(name: str) -> Any:
    """The class of a method that makes adapters; any editor's, too.

    Raises:
        NotFound: see `editor_class`.
    """
    return ADAPTERS[name].load() if name in ADAPTERS else editor_class(name)
