"""Contexts that end at the position in question: what edits start from, and what comes of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Floats, Longs
from labeler.eval.firings import TextFirings
from labeler.eval.scene import Scene
from labeler.tokens import Tokens

SHORT = 32
"""Tokens of a short context. Labels and models cost by the token, and few keys reach further."""

_DRAWN = 20
"""Positions drawn for each one wanted, among which documents are spread."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Contexts up to a position each: what a causal model and its labels read there.

    Attributes
    ----------
    latent : int64 [n]
        The latent that each is about.
    ids : int32 [n, width]
        Zeros after the position.
    length : int64 [n]
        Tokens of each; the position is the last.
    """

    latent: Longs
    ids: npt.NDArray[np.int32]
    length: Longs

    @classmethod
    def cut(
        cls, tokens: Tokens, position: Longs, latent: Longs, longest: int | None = None
    ) -> "Prefixes":
        """Contexts up to each flat position; of longer ones the last `longest` tokens."""
        row, end = np.divmod(position, tokens.ctx_len)
        length = end + 1 if longest is None else np.minimum(end + 1, longest)
        column = np.arange(int(length.max(initial=0)))
        real = column < length[:, None]
        ids = tokens.ids[row[:, None], np.where(real, column + (end + 1 - length)[:, None], 0)]
        return cls(latent, np.where(real, ids, 0).astype(np.int32), length)

    def __len__(self) -> int:
        """Number of contexts."""
        return len(self.length)

    def take(self, rows: Longs | Bools) -> "Prefixes":
        """Some of them."""
        return Prefixes(self.latent[rows], self.ids[rows], self.length[rows])

    def put(self, rows: Longs, back: Longs, token: npt.NDArray[np.integer]) -> "Prefixes":
        """Some of them with other tokens, int [len(rows), m], `back` tokens before the last."""
        ids = self.ids[rows]
        ids[np.arange(len(rows))[:, None], (self.length[rows] - 1)[:, None] - back] = token
        return Prefixes(self.latent[rows], ids, self.length[rows])

    def groups(self, like: Tokens) -> Iterator[tuple[Longs, Tokens]]:
        """Their rows and texts, those of similar length together: padding costs as text does."""
        width = SHORT // 2
        left: Longs = np.arange(len(self))
        while len(left):
            rows = left[self.length[left] <= width]
            if len(rows):
                longest = int(self.length[rows].max())
                yield rows, like.with_ids(self.ids[rows, :longest], self.length[rows])
            left = left[self.length[left] > width]
            width += width // 2


def predicted(scene: Scene, contexts: Prefixes) -> Floats:
    """What each context's own label predicts at its end, float32 [n]."""
    out = np.zeros(len(contexts), dtype=np.float32)
    for rows, text in contexts.groups(scene.heldout):
        out[rows] = scene.claims.at(text, contexts.length[rows] - 1, contexts.latent[rows])
    return out


def called(scene: Scene, contexts: Prefixes) -> Bools:
    """Whether each context's own label calls its end, bool [n]."""
    calls: Bools = predicted(scene, contexts) >= scene.claims.threshold[contexts.latent]
    return calls


def fired(
    scene: Scene, contexts: Prefixes, advance: Callable[[float], None] = lambda n: None
) -> TextFirings:
    """All latents that fire at the end of each context; its number stands for the position.

    `advance` is told the contexts done.
    """
    name = scene.claims.hookpoint
    nothing = np.zeros(0, dtype=np.int64)
    number, latent, act = [nothing], [nothing], [np.zeros(0, dtype=np.float32)]
    for rows, text in contexts.groups(scene.heldout):
        where = np.arange(text.ctx_len) == (text.length - 1)[:, None]
        found = scene.subject.firings(text, [name], where, advance)[name]
        number.append(rows[found.position // text.ctx_len])
        latent.append(found.latent.astype(np.int64))
        act.append(found.act)
    at, which = np.concatenate(number), np.concatenate(latent)
    order = np.lexsort((which, at))
    return TextFirings.make(
        at[order],
        which[order],
        np.concatenate(act)[order],
        n_positions=len(contexts),
        n_latents=scene.claims.n_latents,
    )


def draw(position: Longs, tokens: Tokens, n: int, rng: np.random.Generator) -> Longs:
    """Up to n of some flat positions, as few as possible of them of the same document."""
    some = rng.choice(position, min(_DRAWN * n, len(position)), replace=False)
    document = tokens.doc[some // tokens.ctx_len]
    order = np.argsort(document, kind="stable")
    first = np.searchsorted(document[order], document[order])
    met = np.empty(len(some), dtype=np.int64)
    met[order] = np.arange(len(some)) - first
    spread: Longs = some[np.argsort(met, kind="stable")][:n]
    return spread


def generator(scene: Scene, test: int, latent: int) -> np.random.Generator:
    """Random numbers of a latent's trials: the same whichever other latents are tested."""
    return np.random.default_rng([scene.seed, test, latent])


def firing(scene: Scene, latents: Longs, n: int, test: int) -> Prefixes:
    """Held-out contexts that end where a latent fires and its label calls, up to n of each latent.

    Contexts of up to SHORT tokens where there are enough; longer ones are cut to their last SHORT
    tokens if the latent fires and the label calls there as well. None ends at a first token.
    """
    text = scene.heldout
    positions, about = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for latent, position in scene.firings.by_latent(latents.tolist()).items():
        both = position[scene.calls.at(position, np.full(len(position), latent)) > 0]
        offset = both % text.ctx_len
        rng = generator(scene, test, latent)
        chosen = draw(both[(offset > 0) & (offset < SHORT)], text, n, rng)
        late = draw(both[offset >= SHORT], text, n - len(chosen), rng)
        positions += [chosen, late]
        about.append(np.full(len(chosen) + len(late), latent))
    position, latent_of = np.concatenate(positions), np.concatenate(about)
    whole, short = (Prefixes.cut(text, position, latent_of, most) for most in (None, SHORT))
    cut = np.flatnonzero(whole.length > SHORT)
    acts = fired(scene, short.take(cut)).at(np.arange(len(cut)), latent_of[cut])
    same = np.ones(len(whole), dtype=bool)
    same[cut] = (acts > 0) & called(scene, short.take(cut))
    ids = whole.ids.copy()
    ids[same] = 0
    ids[same, : short.ids.shape[1]] = short.ids[same]
    return Prefixes(latent_of, ids, np.where(same, short.length, whole.length))
