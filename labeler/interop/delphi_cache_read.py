"""Reading a delphi latent cache: a run folder from activations that somebody already cached.

delphi's files hold a range of latents each, ours a range of contexts. Firings are read in blocks,
appended to a bucket on disk for each shard (16 bytes a firing, deleted as shards are written), and
sorted there. Held at once: the tokens, a block of 1 M firings, and one shard.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labeler.coders import Coder
from labeler.config import DELPHI_CACHE, RunConfig
from labeler.errors import CacheError
from labeler.inputs import Run
from labeler.interop.delphi_check import agreement_notes, check_coders
from labeler.interop.delphi_documents import Layout
from labeler.interop.delphi_files import Block, DelphiFile, find_files
from labeler.interop.delphi_text import Text, flat, read_text
from labeler.manifest import Dtype, HookpointEntry, Manifest
from labeler.model import SubjectModel
from labeler.progress import progress_bar
from labeler.provenance import mark_done
from labeler.shards import Shard, plan_shards, write_shard
from labeler.store import hash_json, write_json
from labeler.windows import save_tokens

_FORMAT = 1
_SHARD_POSITIONS = 1 << 15
_SHARD_FIRINGS = 1 << 22
"""Mean firings of a shard at most: 64 MiB in its bucket, some 300 MB while it is sorted."""

_MOST_NEGATIVE = 0.05
"""Share of negative values from which they are no activations."""

_RECORD = np.dtype([("position", "<i8"), ("latent", "<i4"), ("act", "<f4")])


def read_delphi_cache(
    directory: Path,
    out: Path,
    *,
    model: str,
    coder: str,
    hookpoints: Sequence[str] = (),
    seed: int = 0,
    quiet: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """Make a run folder from a delphi latent cache.

    The folder appears when it is complete; ``import.json`` in it says what was assumed. Caches that
    `write_delphi_cache` wrote come back with their documents and splits.

    Parameters
    ----------
    directory : Path
        A delphi run (``results/<name>``) or its ``latents`` folder.
    out : Path
        The run folder to make; must not exist, or be empty.
    model, coder : str
        Hub name or folder, as for `labeler cache`: they give the text of the tokens, the
        fingerprints, and what later steps run.
    hookpoints : sequence of str
        Only these, in any spelling; all where empty.
    seed : int
        Of the run.
    quiet : bool
        Show no progress.
    say : callable
        Told what was assumed, a line each.

    Raises
    ------
    CacheError
        If a file is malformed, files do not go together or do not fit model and coder, or `out`
        is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CacheError(f"{out} already holds something; choose another --out")
    files = _chosen(find_files(directory), hookpoints, directory)
    subject, coders = _load(model, coder, tuple(files))
    for name, found in files.items():
        if found[-1].last + 1 != coders[name].num_latents:
            raise CacheError(
                f"{found[-1].path.parent} holds latents 0 to {found[-1].last}, the coder at {name} "
                f"has {coders[name].num_latents}; name the coder the cache was made with, or copy "
                "the files that are missing"
            )
    text = read_text(directory, files, subject)
    config = RunConfig(
        model=model,
        coder=coder,
        corpus=f"{DELPHI_CACHE}{directory}",
        tokens=max(1000, text.tokens.fit.n_positions),
        heldout_tokens=max(500, text.tokens.heldout.n_positions),
        ctx_len=text.tokens.ctx_len,
        contexts_per_document=0,
        hookpoints=tuple(files),
        seed=seed,
    )
    with _made_whole(out) as folder:
        config.save(folder)
        save_tokens(text.tokens, folder / "tokens")
        content = hash_json([[str(one.path), len(one)] for one in flat(files)])
        mark_done(folder / "tokens" / "done.json", content, corpus=text.tokens.fingerprint)
        counts = _write_cache(folder / "cache", files, text, subject, coders, quiet)
        agreement = check_coders(files, text, subject, coders, folder / ".check")
        notes = [*text.notes, *_count_notes(counts), *agreement_notes(agreement)]
        write_json(
            folder / "import.json",
            {
                "format": _FORMAT,
                "source": str(directory),
                "notes": notes,
                "dropped": {name: vars(one) for name, one in counts.items()},
                "agreement": agreement,
            },
        )
    say(
        f"{text.tokens.fit.n_positions:,} fit and {text.tokens.heldout.n_positions:,} held-out "
        f"tokens of {len(text.tokens.doc_ids):,} documents; {len(coders)} coders"
    )
    for note in notes:
        say(f"note: {note}")
    return Run(out, config, quiet=quiet)


@dataclass
class _Counts:
    """Values of a hookpoint, and those that were left out."""

    stored: int = 0
    """Values in the files."""

    negative: int = 0
    zero: int = 0
    """Values that are no firings."""

    padding: int = 0
    """At padded positions."""


def _chosen(
    files: dict[str, tuple[DelphiFile, ...]], hookpoints: Sequence[str], directory: Path
) -> dict[str, tuple[DelphiFile, ...]]:
    from labeler.hookpoints import parse_hookpoint

    wanted = [parse_hookpoint(name).name for name in hookpoints] or list(files)
    if unknown := [name for name in wanted if name not in files]:
        raise CacheError(
            f"{directory} has no latents of {', '.join(unknown)}; it has {', '.join(files)}"
        )
    return {name: found for name, found in files.items() if name in wanted}


def _load(
    model: str, coder: str, hookpoints: tuple[str, ...]
) -> tuple[SubjectModel, dict[str, Coder]]:
    from labeler.coders import load_coders
    from labeler.model import load_model

    subject = load_model(model)
    return subject, load_coders(coder, model=subject, hookpoints=hookpoints)


@contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that becomes it when the block succeeds."""
    folder = out.absolute().with_name(f".{out.absolute().name}.importing")
    shutil.rmtree(folder, ignore_errors=True)  # of a killed import
    try:
        yield folder
        folder.replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_cache(
    directory: Path,
    files: Mapping[str, tuple[DelphiFile, ...]],
    text: Text,
    subject: SubjectModel,
    coders: Mapping[str, Coder],
    quiet: bool,
) -> dict[str, _Counts]:
    """Write our cache of all hookpoints; returns what was left out."""
    tokens = text.tokens
    densest = max(sum(map(len, found)) for found in files.values()) / tokens.n_ctx
    per_shard = max(
        1, min(_SHARD_POSITIONS // tokens.ctx_len, int(_SHARD_FIRINGS // (densest + 1)))
    )
    half = all(one.activations.dtype == "F16" for one in flat(files))
    dtype: Dtype = "float16" if half else "float32"
    manifest = Manifest(tokens.fingerprint, subject.fingerprint, tokens.ctx_len, per_shard, dtype)
    shards = plan_shards(tokens, per_shard)
    counts = {name: _Counts() for name in files}
    total = 2 * sum(map(len, flat(files)))
    with progress_bar("importing firings", total, quiet=quiet) as advance:
        for name, found in files.items():
            entry = HookpointEntry(coders[name].fingerprint, coders[name].num_latents)
            _fill(directory / name, found, text, shards, counts[name], advance)
            if counts[name].negative > _MOST_NEGATIVE * counts[name].stored:
                raise CacheError(
                    f"{found[0].path.parent}: {counts[name].negative:,} of "
                    f"{counts[name].stored:,} values are negative, so they are from before the "
                    "activation function and do not say what fires; run `labeler cache` instead"
                )
            for shard in shards:
                _sort(directory / name, shard, manifest, entry, advance)
            manifest.hookpoints[name] = entry
    manifest.save(directory)
    return counts


def _fill(
    folder: Path,
    files: tuple[DelphiFile, ...],
    text: Text,
    shards: tuple[Shard, ...],
    counts: _Counts,
    advance: Callable[[float], None],
) -> None:
    """Append every firing to the bucket of its shard."""
    folder.mkdir(parents=True)
    n_seq, ctx_len = text.ids.shape
    ends = np.array([shard.stop for shard in shards]) * text.tokens.ctx_len
    for file in files:
        for block in file.blocks(n_seq, ctx_len):
            records = _records(block, text.layout, ctx_len, counts)
            which = np.searchsorted(ends, records["position"], side="right")
            order = np.argsort(which, kind="stable")
            edges = np.searchsorted(which[order], np.arange(len(shards) + 1))
            for shard in np.unique(which).tolist():
                with _bucket(folder, shards[shard]).open("ab") as stream:
                    stream.write(records[order[edges[shard] : edges[shard + 1]]].tobytes())
            advance(len(block.act))


def _records(block: Block, layout: Layout, ctx_len: int, counts: _Counts) -> npt.NDArray[np.void]:
    position = layout.place(block.sequence * ctx_len + block.pos)
    positive = block.act > 0
    keep = positive & (position >= 0)
    counts.stored += len(position)
    counts.negative += int((block.act < 0).sum())
    counts.zero += int((block.act == 0).sum())
    counts.padding += int((positive & ~keep).sum())
    records = np.empty(int(keep.sum()), dtype=_RECORD)
    records["position"], records["latent"] = position[keep], block.latent[keep]
    records["act"] = block.act[keep]
    return records


def _bucket(folder: Path, shard: Shard) -> Path:
    return folder / f".{shard.index}.bucket"


def _sort(
    folder: Path,
    shard: Shard,
    manifest: Manifest,
    entry: HookpointEntry,
    advance: Callable[[float], None],
) -> None:
    """Turn a bucket into a shard."""
    path = _bucket(folder, shard)
    records = np.fromfile(path, _RECORD) if path.exists() else np.zeros(0, _RECORD)
    order = np.lexsort((records["latent"], records["position"]))
    position, latent = records["position"][order], records["latent"][order]
    twice = np.flatnonzero((np.diff(position) == 0) & (np.diff(latent) == 0))
    if twice.size:
        raise CacheError(
            f"the cache holds latent {int(latent[twice[0]])} of {folder.name} twice at one place; "
            "cache again"
        )
    entry.shards[shard.index] = write_shard(
        folder / shard.file_name,
        position,
        latent,
        records["act"][order],
        ctx_len=manifest.ctx_len,
        num_latents=entry.num_latents,
        dtype=manifest.dtype,
    )
    path.unlink(missing_ok=True)
    advance(len(records))


def _count_notes(counts: Mapping[str, _Counts]) -> Iterator[str]:
    for name, one in counts.items():
        if silent := one.negative + one.zero:
            yield f"{name}: {silent:,} activations of 0 or less taken for silence"
        if one.padding:
            yield f"{name}: {one.padding:,} firings at padded positions left out"
