"""Whether latents fire where their labels call, on text that a generator made for the labels."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import polars as pl

from labeler.arrays import Bools, Doubles, Longs
from labeler.eval.counterfactual import controls
from labeler.eval.generate import Kind, Reply, Request
from labeler.eval.generate_codec import Codec
from labeler.eval.ranking import ratio
from labeler.eval.scene import Scene
from labeler.eval.snippets import key_snippets
from labeler.eval.trials import Trials
from labeler.eval.unseen_texts import Texts, Watched, watch
from labeler.tokens import Tokens

N_TEXTS = 8
"""Texts of each latent and kind."""

MAX_TOKENS = 24
"""Tokens of a text."""

BEFORE = 8
"""Tokens of the beginning that a base model continues."""

_KINDS: tuple[Kind, ...] = get_args(Kind)

_KEYS, _BEGIN = 11, 12
"""What random numbers are for."""


def requests_for(
    scene: Scene,
    codec: Codec,
    kinds: Sequence[Kind] = ("contain",),
    n: int = N_TEXTS,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
) -> list[Request]:
    """What to ask of a generator: n texts of each kind for every latent under test.

    Their keys are snippets of the fit split, in turn. Latents without any, or whose snippets are
    no text, are asked for "like" instead of "contain".
    """
    snippets = key_snippets(scene, scene.latents.tolist(), n, np.random.default_rng([seed, _KEYS]))
    about = scene.claims.labels.latents["text"].to_list()
    wanted = []
    for latent in scene.latents.tolist():
        texts = [codec.decode(found) for found in snippets[latent]]
        keys = [text for text in texts if _is_text(text)]
        mine: list[Kind] = ["like" if one == "contain" and not keys else one for one in kinds]
        for kind in dict.fromkeys(mine):
            rng = np.random.default_rng([seed, _BEGIN, latent, _KINDS.index(kind)])
            for number in range(n):
                wanted.append(
                    Request(
                        hookpoint=scene.claims.hookpoint,
                        latent=latent,
                        number=number,
                        kind=kind,
                        key=keys[number % len(keys)] if keys and kind != "like" else "",
                        about=" ".join(about[latent].split()),
                        before=_beginning(scene.heldout, codec, rng),
                        max_tokens=max_tokens,
                        seed=seed,
                    )
                )
    return wanted


def _is_text(text: str) -> bool:
    """Whether token ids were whole characters."""
    return bool(text) and "\ufffd" not in text


def _beginning(text: Tokens, codec: Codec, rng: np.random.Generator) -> str:
    """A few tokens of a held-out context, not its first, which may be a mark."""
    contexts = np.flatnonzero(text.length >= min(BEFORE + 1, int(text.length.max())))
    row = int(rng.choice(contexts))
    length = int(text.length[row])
    first = int(rng.integers(1, max(length - BEFORE, 1) + 1))
    return codec.decode(text.ids[row, first : min(first + BEFORE, length)]).replace("\ufffd", "")


@dataclass(frozen=True, eq=False)
class Unseen:
    """What came of the texts of a generator.

    Attributes
    ----------
    trials : Trials
        A trial for each text that is to contain the key, or be like it, and that the label calls.
    figures : polars.DataFrame
        A row per latent under test. On its texts of these two kinds, where generated: n_texts,
        called, hit, fires (positions), precision, recall. On texts that are to avoid the key, and
        do: n_avoid, silent (share of texts in which the latent never fires), silent_control (of
        those of another latent's). On all: share_seen (of the rows of NGRAM tokens generated, how
        many occur in the fit sample; NaN where there is none).
    failures : dict of str to int
        Requests without a use, by why: those of replies, and "key missing" (the label calls
        nowhere), "key present" (it calls, and should not), "no control".
    """

    trials: Trials
    figures: pl.DataFrame
    failures: dict[str, int]


def unseen(
    scene: Scene,
    codec: Codec,
    generator: str,
    requests: Sequence[Request],
    replies: Sequence[Reply],
    advance: Callable[[float], None] = lambda n: None,
) -> Unseen:
    """Read the texts with the labels and with the subject.

    Own: the latent fires at one of the positions that its label calls, drawn at random. Control:
    it fires where its partner's label calls, at the place drawn in the partner's text.

    Parameters
    ----------
    scene : Scene
    codec : Codec
        Of the subject.
    generator : str
        Its name.
    requests : sequence of Request
        See `requests_for`.
    replies : sequence of Reply
        To each request.
    advance : callable
        Told the texts read.
    """
    failures = Counter(reply.failure for reply in replies if reply.failure is not None)
    texts = Texts.make(scene, codec, requests, replies)
    found = watch(scene, texts, advance)
    size = scene.claims.n_latents
    is_called = found.place >= 0
    made = np.flatnonzero(is_called & ~texts.avoids)

    def calls(rows: Longs, latent: Longs) -> Bools:
        return found.called_there.at(made[rows], latent) > 0

    control = controls(scene, texts.latent[made], calls)
    kept = control >= 0
    own_text, other_text = made[kept], made[control[kept]]
    latent = texts.latent[own_text]
    failures["key missing"] += int((~is_called & ~texts.avoids).sum())
    failures["key present"] += int((is_called & texts.avoids).sum())
    failures["no control"] += int((~kept).sum())
    wanted = np.array([one.latent for one in requests if one.kind != "avoid"], dtype=np.int64)
    trials = Trials(
        f"unseen:{generator}",
        latent.astype(np.int32),
        found.there.at(own_text, latent) > 0,
        found.there.at(other_text, latent) > 0,
        np.bincount(wanted, minlength=size) - np.bincount(latent, minlength=size),
    )
    counted = {why: count for why, count in failures.items() if count}
    return Unseen(trials, _figures(scene, texts, found), counted)


def _figures(scene: Scene, texts: Texts, found: Watched) -> pl.DataFrame:
    size = scene.claims.n_latents

    def total(which: Bools, values: Longs | None = None) -> Doubles:
        """Sum over some texts, by latent under test."""
        weights = None if values is None else values[which]
        sums = np.bincount(texts.latent[which], weights=weights, minlength=size)
        return sums[scene.latents].astype(np.float64)

    mine = ~texts.avoids
    called, hit, fires = (total(mine, one) for one in (found.called, found.hit, found.fires))
    n_grams, seen = (total(np.ones(len(texts), bool), one) for one in texts.seen(scene.source))
    avoiding = np.flatnonzero(texts.avoids & (found.place < 0))
    by_latent = {int(one): avoiding[texts.latent[avoiding] == one] for one in scene.latents}

    def silent(whose: Longs) -> Doubles:
        """Share of the texts that avoid another label, or its own, in which a latent is silent."""
        rows = [by_latent.get(int(other), avoiding[:0]) for other in whose]
        n = np.array([len(one) for one in rows], dtype=np.float64)
        fired = [
            np.count_nonzero(found.ever.at(one, np.full(len(one), latent)))
            for one, latent in zip(rows, scene.latents, strict=True)
        ]
        return ratio(n - fired, n)

    return pl.DataFrame(
        {
            "latent": scene.latents.astype(np.int32),
            "n_texts": total(mine).astype(np.int64),
            "called": called.astype(np.int64),
            "hit": hit.astype(np.int64),
            "fires": fires.astype(np.int64),
            "precision": ratio(hit, called),
            "recall": ratio(hit, fires),
            "n_avoid": np.array([len(one) for one in by_latent.values()], dtype=np.int64),
            "silent": silent(scene.latents),
            "silent_control": silent(scene.partner[scene.latents]),
            "share_seen": ratio(seen, n_grams),
        }
    )
