"""Which other latents' explanations an explanation is judged beside."""

from collections.abc import Iterator, Sequence

import numpy as np

from labeler.eval.audit.stored import normalised
from labeler.eval.audit.terms import Claim
from labeler.explanations import Explanation

N_CONTROLS = 5
"""Explanations of other latents that each latent is judged by as well."""

_TRIED = 60
"""Explanations looked through for them: where nearly all say the same, fewer are found."""


class Controls:
    """Explanations in a random order; the next ones in it are the controls of each.

    Parameters
    ----------
    explanations : sequence of Explanation
    claims : sequence of Claim
        What each claims.
    usable : sequence of bool
        Which are explanations at all.
    seed : int

    Attributes
    ----------
    explanations, known : sequence
        The same, explanations and what they claim.
    order : list of int
        Their random order.
    """

    def __init__(
        self,
        explanations: Sequence[Explanation],
        claims: Sequence[Claim],
        usable: Sequence[bool],
        seed: int,
    ) -> None:
        self.explanations, self.known, self._usable = explanations, claims, usable
        self.order: list[int] = np.random.default_rng(seed).permutation(len(claims)).tolist()
        self._place = {number: place for place, number in enumerate(self.order)}

    def _others(self, number: int) -> Iterator[int]:
        """Usable explanations of other latents with other texts, from its place on."""
        mine = self.explanations[number]
        text = normalised(mine.text)
        size = len(self.order)
        for step in range(1, min(size, _TRIED)):
            other = self.order[(self._place[number] + step) % size]
            theirs = self.explanations[other]
            if not self._usable[other] or theirs.latent == mine.latent:
                continue
            if normalised(theirs.text) != text:
                yield other

    def claims(self, number: int) -> list[Claim]:
        """Claims that name none of the items that its own does: another statement each."""
        named = _named(self.known[number])
        found = [
            self.known[other]
            for other in self._others(number)
            if self.known[other] and not named & _named(self.known[other])
        ]
        return list(dict.fromkeys(found))[:N_CONTROLS]

    def texts(self, number: int) -> list[str]:
        """Texts of others."""
        found = dict.fromkeys(self.explanations[other].text for other in self._others(number))
        return list(found)[:N_CONTROLS]


def _named(claim: Claim) -> frozenset[str]:
    """Pieces of text and classes that a claim names, in lower case."""
    atoms = [
        atom
        for term in claim.terms
        for atom in (*((term.atom,) if term.atom else ()), *term.after, *term.before)
    ]
    return frozenset(atom.text.strip().lower() or atom.text for atom in atoms)
