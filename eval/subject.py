"""What the tests watch: a model with its coders, or anything else that has latents."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from labeler.arrays import Bools
from labeler.cache import firings_at
from labeler.coders import Coder
from labeler.errors import OptionError
from labeler.eval.firings import TextFirings
from labeler.model import SubjectModel
from labeler.tokens import Tokens

_POSITIONS = 4096
"""Positions of a forward pass."""


class Subject(Protocol):
    """Something whose latents can be watched on any text.

    Attributes
    ----------
    max_ctx : int
        Longest context, tokens.
    """

    @property
    def max_ctx(self) -> int: ...  # noqa: D102

    def firings(
        self,
        tokens: Tokens,
        hookpoints: Sequence[str],
        where: Bools | None = None,
        advance: Callable[[float], None] = lambda n: None,
    ) -> dict[str, TextFirings]:
        """Firings on a text, by hookpoint.

        Parameters
        ----------
        tokens : Tokens
        hookpoints : sequence of str
        where : bool [n_ctx, ctx_len], optional
            Positions to watch; all real tokens where None.
        advance : callable
            Told the contexts done.
        """
        ...


class ModelSubject:
    """The subject model with its sparse coders."""

    def __init__(self, model: SubjectModel, coders: Mapping[str, Coder]) -> None:
        self.model, self.coders = model, coders

    @property
    def max_ctx(self) -> int:
        """Longest context, tokens."""
        return self.model.max_ctx

    def firings(
        self,
        tokens: Tokens,
        hookpoints: Sequence[str],
        where: Bools | None = None,
        advance: Callable[[float], None] = lambda n: None,
    ) -> dict[str, TextFirings]:
        """Firings on a text, by hookpoint; one pass of the model, up to the last hookpoint.

        Raises
        ------
        OptionError
            If there is no coder for a hookpoint.
        CacheError
            If the model gives values that are not finite.
        """
        if unknown := [name for name in hookpoints if name not in self.coders]:
            raise OptionError(
                f"no coder for hookpoint {', '.join(unknown)}; there are {', '.join(self.coders)}"
            )
        chosen = {name: self.coders[name] for name in hookpoints}
        watched = tokens.valid if where is None else tokens.valid & where
        nothing = torch.zeros(0, dtype=torch.long, device=self.model.device)
        parts = {name: [(nothing, nothing, nothing.float())] for name in hookpoints}
        step = max(1, _POSITIONS // tokens.ctx_len)
        for start in range(0, tokens.n_ctx, step):
            rows = slice(start, min(start + step, tokens.n_ctx))
            at = torch.from_numpy(np.flatnonzero(watched[rows])).to(self.model.device)
            for name, found in firings_at(self.model, chosen, tokens.ids[rows], at).items():
                position, latent, act = found
                parts[name].append((position + start * tokens.ctx_len, latent, act))
            advance(rows.stop - rows.start)
        return {
            name: TextFirings.make(
                *(torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)),
                n_positions=tokens.ids.size,
                n_latents=self.coders[name].num_latents,
            )
            for name, found in parts.items()
        }
