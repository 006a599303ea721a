"""The manifest of a latent cache: what it was made from, and which shards are finished."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from labeler.errors import CacheError
from labeler.store import write_json

FORMAT = 1
"""Version of the manifest and the shards."""

MANIFEST = "manifest.json"

Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest knows of a finished shard file."""

    rows: int
    """Number of firings."""

    size: int
    """Bytes of the file."""

    sha256: str
    """Hash of the file."""


@dataclass
class HookpointEntry:
    """What the manifest knows of a hookpoint."""

    coder: str
    """Fingerprint of the coder."""

    num_latents: int
    """Its number of latents."""

    shards: dict[int, ShardEntry] = field(default_factory=dict)
    """Finished shards by number."""


@dataclass
class Manifest:
    """What a cache was made from and which shards are finished."""

    tokens: str
    """Fingerprint of the token windows."""

    model: str
    """Fingerprint of the model."""

    ctx_len: int
    contexts_per_shard: int
    dtype: Dtype
    hookpoints: dict[str, HookpointEntry] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write ``manifest.json`` atomically."""
        write_json(directory / MANIFEST, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, directory: Path) -> "Manifest | None":
        """Read ``manifest.json``; None where there is none.

        Raises
        ------
        CacheError
            If it is damaged or of another format.
        """
        path = directory / MANIFEST
        if not path.exists():
            return None
        cure = f"delete {directory} and run `labeler cache` again"
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = raw.pop("format")
            if version != FORMAT:
                raise CacheError(
                    f"{path} has format {version}, this version reads {FORMAT}; {cure}"
                )
            hookpoints = {name: _entry(value) for name, value in raw.pop("hookpoints").items()}
            return cls(**raw, hookpoints=hookpoints)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(f"{path} is damaged ({error}); {cure}") from error


def _entry(raw: dict[str, Any]) -> HookpointEntry:
    shards = {int(index): ShardEntry(**value) for index, value in raw["shards"].items()}
    return HookpointEntry(raw["coder"], raw["num_latents"], shards)
