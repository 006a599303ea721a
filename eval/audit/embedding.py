"""How near an explanation is to a context, by a sentence-embedding model that the user gives.

The model is a local folder of sentence-transformers. Nothing of it is run but the library's own
modules on safetensors weights: a folder may name any Python class, so its names are checked first.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from labeler.arrays import Floats
from labeler.errors import ModelError
from labeler.model import quiet
from labeler.store import read_json, safetensors_fault

MAX_CHARS = 4000
"""Characters of a text that are embedded; what follows is left out."""

BATCH = 64
"""Texts embedded at once."""

_CURE = "save the model there with SentenceTransformer.save(); docs/audit.md says how to make one"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

_WITH_WEIGHTS = frozenset({"Transformer", "StaticEmbedding", "Dense", "LayerNorm"})
_WITHOUT = frozenset({"Pooling", "Normalize", "Dropout"})
_CLASS = re.compile(r"sentence_transformers(?:\.\w+)*\.(?P<name>\w+)")
_ACTIVATION = re.compile(r"torch\.nn\.(?:modules\.\w+\.)?\w+")


class EmbeddingScorer:
    """Scores contexts by the cosine of their embedding and a text's.

    Texts are embedded once and kept.

    Attributes
    ----------
    name : str
        What the audit calls it.
    folder : Path

    Parameters
    ----------
    folder : Path
        A sentence-transformers model folder (modules.json, safetensors).

    Raises
    ------
    ModelError
        If the library is not installed, or the folder is missing, incomplete, damaged, or wants
        code or pickles to be run.
    """

    name = "embedding"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_embedding_folder(folder)
        self._model = _load(folder)
        self._known: dict[str, Floats] = {}

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors float32 [n, d] of one or more texts; zeros where it knows no word of a text.

        Raises
        ------
        ModelError
            If the model fails on them or yields NaN or infinity.
        """
        wanted = [text[:MAX_CHARS] for text in texts]
        fresh = [text for text in dict.fromkeys(wanted) if text not in self._known]
        if fresh:
            vectors = self._encode(fresh)
            self._known |= dict(zip(fresh, vectors, strict=True))
        return np.stack([self._known[text] for text in wanted])

    def scores(self, texts: Sequence[str], contexts: Sequence[str]) -> Floats:
        """Cosine of each text with each context, float32 [n_texts, n_contexts], -1 to 1.

        0 where the model knows no word of either.
        """
        # In float64: what float32 sums to depends on how many texts are compared at once.
        one, other = (self.embed(some).astype(np.float64) for some in (texts, contexts))
        nearness: Floats = (one @ other.T).astype(np.float32)
        return nearness

    def _encode(self, texts: list[str]) -> Floats:
        try:
            with quiet():
                raw = self._model.encode(
                    texts, batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True
                )
        except Exception as error:
            # Sizes that do not fit each other are found by torch, tokenizers or the library.
            raise ModelError(
                f"{self.folder} fails on text: {_first(error)}; its tokenizer and weights may not "
                f"belong together; {_CURE}"
            ) from error
        vectors = np.asarray(raw, dtype=np.float64).reshape(len(texts), -1)
        if not np.isfinite(vectors).all():
            raise ModelError(f"{self.folder} yields NaN or infinity; copy or download it again")
        size = np.linalg.norm(vectors, axis=1, keepdims=True)
        units: Floats = (vectors / np.where(size > 0, size, 1)).astype(np.float32)
        return units


def check_embedding_folder(folder: Path) -> None:
    """Look at a folder's files before anything is loaded from them.

    Raises
    ------
    ModelError
        As for `EmbeddingScorer`.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"embedding model folder {folder} {what}; give a local sentence-transformers folder, "
            f"not a hub name: {_CURE}"
        )
    for name, place in _modules(folder):
        for path in sorted(place.glob("*config.json")):
            _check_config(path)
        if name in _WITH_WEIGHTS:
            _check_weights(place)


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Class and folder of each module, their names checked."""
    path = folder / "modules.json"
    listed = read_json(path, ModelError, _CURE)
    if not isinstance(listed, list) or not listed:
        raise ModelError(f"{path} lists no modules; {_CURE}")
    for one in listed:
        kind = one.get("type") if isinstance(one, dict) else None
        where = one.get("path", "") if isinstance(one, dict) else None
        found = _CLASS.fullmatch(kind) if isinstance(kind, str) else None
        if not found or found["name"] not in _WITH_WEIGHTS | _WITHOUT:
            raise ModelError(
                f"{path} wants the class {str(kind)[:100]!r} to be run; only these modules of "
                f"sentence-transformers are: {', '.join(sorted(_WITH_WEIGHTS | _WITHOUT))}"
            )
        if not isinstance(where, str) or _leaves(where):
            raise ModelError(
                f"{path} places a module at {str(where)[:100]!r}, outside {folder}; {_CURE}"
            )
        yield found["name"], folder / where


def _leaves(where: str) -> bool:
    """Whether a relative path may lead out of its folder."""
    path = PurePosixPath(where)
    return path.is_absolute() or ".." in path.parts or "\\" in where or ":" in where


def _check_config(path: Path) -> None:
    """Refuse a config that names code."""
    found = read_json(path, ModelError, _CURE)
    if not isinstance(found, dict):
        return
    if "auto_map" in found:
        raise ModelError(
            f"{path} has auto_map, Python code of its own that would be run; use a model that "
            "needs none"
        )
    activation = found.get("activation_function")
    if activation is not None and not (
        isinstance(activation, str) and (_ACTIVATION.fullmatch(activation) or "." not in activation)
    ):
        raise ModelError(
            f"{path}: activation_function is {str(activation)[:100]!r}; only those of torch.nn are "
            "used"
        )


def _check_weights(place: Path) -> None:
    paths = sorted(place.glob("*.safetensors"))
    if not (place / _WEIGHTS).is_file() and not (paths and (place / _INDEX).is_file()):
        pickled = sorted(path.name for path in place.iterdir() if path.suffix in _PICKLED)
        why = f" (it has {', '.join(pickled[:3])}: pickles can run code)" if pickled else ""
        raise ModelError(
            f"{place} lacks {_WEIGHTS}{why}; load the model where you trust it and save it again "
            "with SentenceTransformer.save(), which writes safetensors"
        )
    for path in paths:
        if fault := safetensors_fault(path):
            raise ModelError(f"{path} is damaged: {fault}; copy or download it again")


def _load(folder: Path) -> Any:
    try:
        # Imported here: seconds, which an audit without embeddings need not cost.
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError(
            "sentence embeddings need sentence-transformers; install it with "
            "`pip install 'labeler[embed]'`"
        ) from error
    try:
        with quiet():
            return SentenceTransformer(
                str(folder),
                device="cpu",
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
    except Exception as error:
        # The library, transformers, tokenizers and safetensors raise a dozen unrelated types here.
        raise ModelError(
            f"cannot load the embedding model {folder}: {_first(error)}; {_CURE}"
        ) from error


def _first(error: Exception) -> str:
    """Type and first line of an error: what follows is advice for users of the library."""
    line = next(iter(str(error).strip().splitlines()), "no reason given")
    return f"{type(error).__name__}: {line[:300]}"
