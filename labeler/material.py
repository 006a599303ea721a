"""What every block of latents is fitted on: key tree, rows, overlaps, sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from labeler.corrections import Membership
from labeler.functions.calls import Calls
from labeler.keytree import KeyTree
from labeler.level import REFINES, Nodes
from labeler.overlap import Overlaps
from labeler.sample import Sample
from labeler.statistics import Rows, make_rows
from labeler.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Material:
    """What every block of latents of a hookpoint is fitted on.

    Attributes
    ----------
    tree : KeyTree
        All levels; those of `scored` compete for the label, the others only correct whole tables.
    scored : KeyTree
    rows : dict of str to Rows
    fit : Tokens
        The fit split.
    overlaps : Overlaps
    sample : Sample
        Positions on which thresholds are chosen.
    nodes : dict of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
        Of the fit split, by level.
    members : dict of str to Membership
        Of the levels that may correct whole tables.
    """

    tree: KeyTree
    scored: KeyTree
    rows: Mapping[str, Rows]
    fit: Tokens
    overlaps: Overlaps
    sample: Sample
    nodes: Mapping[str, Nodes]
    members: Mapping[str, Membership]
    _deepest: dict[str, dict[str | None, npt.NDArray[np.int32]]] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        tree: KeyTree,
        nodes: Mapping[str, Nodes],
        fit: Tokens,
        scored: Sequence[str] | None = None,
    ) -> "Material":
        """Everything made once for all hookpoints; every level is scored unless told."""
        rows = make_rows(tree, nodes, fit)
        several = [name for name in tree.levels if tree.several_keys(name)]
        ahead = [name for name in tree.levels if tree.looks_ahead(name)]
        return cls(
            tree,
            tree.select(tree.levels if scored is None else scored),
            rows,
            fit,
            Overlaps(tree, nodes),
            Sample.take(fit, nodes),
            nodes,
            {
                name: Membership.make(rows[name])
                for name in tree.levels
                if REFINES in name and name not in (*several, *ahead)
            },
        )

    def with_calls(self, calls: Calls) -> "Material":
        """The same, with the calls of earlier labels among what is scored."""
        tree, nodes = self.tree.with_calls(calls, self.fit, self.nodes)
        only = tree.only(calls.name)
        found = {calls.name: nodes}
        flat = nodes.reshape(self.fit.ids.size, -1)[self.sample.position]
        return replace(
            self,
            tree=tree,
            scored=self.scored.joined(only),
            rows=dict(self.rows) | make_rows(only, found, self.fit),
            overlaps=self.overlaps.with_level(tree, calls.name, nodes),
            sample=replace(self.sample, nodes=self.sample.nodes | {calls.name: flat}),
            nodes=dict(self.nodes) | found,
        )

    def deepest(self, end: str) -> dict[str | None, npt.NDArray[np.int32]]:
        """Positions by the finest level of a chain that has a row for them; None for none."""
        if end not in self._deepest:
            open_ = np.ones(self.fit.ids.size, dtype=bool)
            found: dict[str | None, npt.NDArray[np.int32]] = {}
            for name in reversed(self.tree.chain(end)):
                here = open_ & (self.rows[name].of_position[:, 0] >= 0)
                found[name] = np.flatnonzero(here).astype(np.int32)
                open_ &= ~here
            found[None] = np.flatnonzero(open_).astype(np.int32)
            self._deepest[end] = found
        return self._deepest[end]
