"""Generated texts as tokens of a subject, and what its latents and their labels do on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Longs
from labeler.eval.firings import TextFirings
from labeler.eval.generate import Reply, Request
from labeler.eval.generate_codec import Codec
from labeler.eval.scene import Scene
from labeler.tokens import Tokens

LONGEST = 64
"""Tokens of a text that are read, what was given included."""

NGRAM = 8
"""Tokens in a row that are looked for in the fit sample."""

_AT_ONCE = 1024
"""Texts watched at once."""

_PLACE = 13
"""What random numbers are for."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Generated texts, those that there are.

    Attributes
    ----------
    latent : int64 [n]
        For whose label each was made.
    avoids : bool [n]
        Whether it is to avoid the key.
    number : int64 [n]
        Of this latent and kind.
    ids : int32 [n, width]
    length : int64 [n]
    given : int64 [n]
        Tokens at its beginning that were not generated.
    """

    latent: Longs
    avoids: Bools
    number: Longs
    ids: npt.NDArray[np.int32]
    length: Longs
    given: Longs

    @classmethod
    def make(
        cls, scene: Scene, codec: Codec, requests: Sequence[Request], replies: Sequence[Reply]
    ) -> "Texts":
        """Tokens of the replies that are texts, begun as documents of the corpus are."""
        longest = min(LONGEST, scene.subject.max_ctx)
        begin = _mark(scene)
        rows, lengths, givens, asked = [], [], [], []
        for request, reply in zip(requests, replies, strict=True):
            if reply.text is None:
                continue
            # Tokens never straddle the end of what was given: the generator went on from there.
            given = codec.encode(reply.text[: reply.n_before])
            new = codec.encode(reply.text[reply.n_before :])
            ids = np.concatenate([begin, given, new])[:longest]
            rows.append(np.pad(ids, (0, longest - len(ids))))
            lengths.append(len(ids))
            givens.append(len(begin) + len(given))
            asked.append(request)
        return cls(
            np.array([one.latent for one in asked], dtype=np.int64),
            np.array([one.kind == "avoid" for one in asked], dtype=bool),
            np.array([one.number for one in asked], dtype=np.int64),
            np.array(rows, dtype=np.int32).reshape(-1, longest),
            np.array(lengths, dtype=np.int64),
            np.array(givens, dtype=np.int64),
        )

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.latent)

    @property
    def scored(self) -> Bools:
        """Generated tokens, bool [n, width]."""
        at = np.arange(self.ids.shape[1])
        generated: Bools = (at >= self.given[:, None]) & (at < self.length[:, None])
        return generated

    def seen(self, source: Tokens) -> tuple[Longs, Longs]:
        """Rows of NGRAM generated tokens of each text, int64 [n], and those that `source` has."""
        known = np.unique(_ngrams(source.ids)[source.valid[:, NGRAM - 1 :]])
        # All of a row is generated where its first and its last token are.
        whole = self.scored[:, : -NGRAM + 1] & self.scored[:, NGRAM - 1 :]
        found = np.isin(_ngrams(self.ids), known) & whole
        return whole.sum(axis=1), found.sum(axis=1)


def _mark(scene: Scene) -> npt.NDArray[np.int32]:
    """The token that all documents begin with, if there is one."""
    first = [
        text.ids[np.unique(text.doc, return_index=True)[1], 0]
        for text in (scene.source, scene.heldout)
    ]
    mark = np.unique(np.concatenate(first))
    return mark if len(mark) == 1 else mark[:0]


def _ngrams(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    """A hash of every NGRAM tokens in a row, uint64 [n, width - NGRAM + 1]."""
    factors = np.random.default_rng(0).integers(1 << 63, size=NGRAM, dtype=np.uint64) * 2 + 1
    width = ids.shape[1] - NGRAM + 1
    out = np.zeros((len(ids), max(width, 0)), dtype=np.uint64)
    for offset, factor in enumerate(factors[: len(factors) if width > 0 else 0]):
        out += ids[:, offset : offset + width].astype(np.uint64) * factor
    return out


@dataclass(frozen=True, eq=False)
class Watched:
    """What happened on generated texts.

    Attributes
    ----------
    called, hit, fires : int64 [n]
        Generated tokens that each text's own label calls, that its latent fires at, and both.
    place : int64 [n]
        Position of one of those called, drawn at random; -1 where the label calls none.
    there : TextFirings
        What fires at that place; the number of the text stands for the position.
    called_there : TextFirings
        What labels call at that place, likewise.
    ever : TextFirings
        What fires anywhere among the generated tokens of texts that avoid a key, likewise.
    """

    called: Longs
    hit: Longs
    fires: Longs
    place: Longs
    there: TextFirings
    called_there: TextFirings
    ever: TextFirings


def watch(scene: Scene, texts: Texts, advance: Callable[[float], None]) -> Watched:
    """Run the labels and the subject on the texts; `advance` is told the texts done."""
    name, size = scene.claims.hookpoint, scene.claims.n_latents
    called, hit, fires, place = (np.zeros(len(texts), dtype=np.int64) for _ in range(4))
    place -= 1
    there: list[Longs] = [np.zeros(0, np.int64)]
    called_there: list[Longs] = [np.zeros(0, np.int64)]
    ever: list[Longs] = [np.zeros(0, np.int64)]
    for start in range(0, len(texts), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(texts)))
        width = int(texts.length[rows].max())
        scored = texts.scored[rows, :width]
        text = scene.heldout.with_ids(texts.ids[rows, :width], texts.length[rows])
        latent = np.repeat(texts.latent[rows], width)
        at = np.arange(scored.size)
        every = scene.claims.calls(text)
        calls = scored & (every.at(at, latent) > 0).reshape(scored.shape)
        found = scene.subject.firings(text, [name], scored)[name]
        own = (found.at(at, latent) > 0).reshape(scored.shape)
        called[rows], fires[rows] = calls.sum(axis=1), own.sum(axis=1)
        hit[rows] = (calls & own).sum(axis=1)
        for row in np.flatnonzero(calls.any(axis=1)).tolist():
            which = texts.latent[start + row], texts.avoids[start + row], texts.number[start + row]
            rng = np.random.default_rng([scene.seed, _PLACE, *(int(one) for one in which)])
            place[start + row] = rng.choice(np.flatnonzero(calls[row]))
        there.append(_at_place(found, place, start, width, size))
        number = found.position // width + start
        code = number * size + found.latent
        called_there.append(_at_place(every, place, start, width, size))
        ever.append(np.unique(code[texts.avoids[number]]))
        advance(len(rows))
    return Watched(
        called,
        hit,
        fires,
        place,
        *(_by_text(parts, len(texts), size) for parts in (there, called_there, ever)),
    )


def _at_place(found: TextFirings, place: Longs, start: int, width: int, n_latents: int) -> Longs:
    """Text and latent of what fires, or is called, at the place of its text: one number each."""
    number, pos = np.divmod(found.position, width)
    number += start
    here = pos == place[number]
    code: Longs = number[here] * n_latents + found.latent[here]
    return code


def _by_text(parts: Sequence[Longs], n_texts: int, n_latents: int) -> TextFirings:
    text, latent = np.divmod(np.concatenate(parts), n_latents)
    act = np.ones(len(text), dtype=np.float32)
    return TextFirings.make(text, latent, act, n_positions=n_texts, n_latents=n_latents)
