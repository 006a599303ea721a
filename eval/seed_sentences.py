"""Where the sentences of the seed study's probes come from: held-out text, or a generator.

The study has Meta-Llama-3-8B-Instruct write them (get_eval_inputs.py).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labeler.arrays import Bools, Longs
from labeler.eval.generate import Generator, Kind, Request, replies
from labeler.eval.seed_probes import Want
from labeler.tokens import Tokens

SENTENCE = 24
"""Tokens of a sentence (max_completion_tokens)."""

_EARLY = 8
"""Tokens of a sentence among which its target comes ("early on, use the subword")."""


class HeldoutSentences:
    """Pieces of held-out text that hold a target, or of documents with the topics."""

    def __init__(self, text: Tokens, seed: int) -> None:
        self._text, self._rng = text, np.random.default_rng(seed)
        # Not the first token of a context: it may be BOS, which no sentence repeats.
        self._inside = text.valid & (np.arange(text.ctx_len) > 0)
        self._everywhere = np.flatnonzero(self._inside)
        held = text.ids.ravel()[self._everywhere]
        order = np.argsort(held, kind="stable")
        self._by_token = self._everywhere[order]
        self._edges = np.searchsorted(held[order], np.arange(text.n_vocab + 1))

    def write(self, wants: Sequence[Want]) -> list[Longs | None]:
        """A piece for each want, drawn at random; any piece where the text lacks its target."""
        return [self._piece(want) for want in wants]

    def _piece(self, want: Want) -> Longs | None:
        if not len(self._everywhere):
            return None
        places = np.zeros(0, dtype=np.int64)
        if want.tokens:
            token = want.tokens[self._rng.integers(len(want.tokens))]
            places = self._by_token[self._edges[token] : self._edges[token + 1]]
        elif want.topics:
            places = np.flatnonzero(self._inside & self._about(want)[:, None])
        position = int(self._rng.choice(places if len(places) else self._everywhere))
        context, offset = divmod(position, self._text.ctx_len)
        begin = max(offset - int(self._rng.integers(_EARLY)), 1)
        end = min(begin + SENTENCE, int(self._text.length[context]))
        return self._text.ids[context, begin:end].astype(np.int64)

    def _about(self, want: Want) -> Bools:
        """Contexts of the documents that have most of the topics."""
        found = np.array(
            [
                sum(names[level] == name for level, name in want.topics)
                for names in self._text.topics
            ]
        )[self._text.doc]
        about: Bools = found == found.max()
        return about


class GeneratedSentences:
    """Sentences that a generator writes, kept in a file.

    Parameters
    ----------
    generator : Generator
    tokenizer : transformers.PreTrainedTokenizerBase
        Of the subject.
    text : Tokens
        Held-out text; a base model is given the beginning of a piece of it.
    hookpoint : str
    cache_path : Path
        Replies made so far.
    seed : int
    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: Any,
        text: Tokens,
        *,
        hookpoint: str,
        cache_path: Path,
        seed: int,
    ) -> None:
        self._generator, self._tokenizer, self._text = generator, tokenizer, text
        self._hookpoint, self._cache, self._seed = hookpoint, cache_path, seed

    def write(self, wants: Sequence[Want]) -> list[Longs | None]:
        """A sentence for each want, without what the generator was given; None where it failed."""
        out: list[Longs | None] = []
        for reply in replies(self._generator, self._requests(wants), self._cache):
            written = "" if reply.text is None else reply.text[reply.n_before :]
            ids = self._tokenizer(written, add_special_tokens=False)["input_ids"]
            out.append(np.array(ids, dtype=np.int64) if ids else None)
        return out

    def _requests(self, wants: Sequence[Want]) -> list[Request]:
        pieces = HeldoutSentences(self._text, self._seed).write(wants)
        made: Counter[tuple[int, Kind]] = Counter()
        requests = []
        for want, piece in zip(wants, pieces, strict=True):
            words = [self._text.vocab[token] for token in want.tokens]
            kind: Kind = "contain" if words else "like"
            about = f"text with words with {' and '.join(map(repr, words))}"
            if not words:
                about = f"text about {', '.join(name for _, name in want.topics)}"
            before = [] if piece is None else piece[:_EARLY].tolist()
            requests.append(
                Request(
                    hookpoint=self._hookpoint,
                    latent=want.latent,
                    number=made[want.latent, kind],
                    kind=kind,
                    key=words[0] if words else "",
                    about=about,
                    before=self._tokenizer.decode(before),
                    max_tokens=SENTENCE,
                    seed=self._seed,
                )
            )
            made[want.latent, kind] += 1
        return requests
