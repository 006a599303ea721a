"""Where the text of an audit comes from: a run's held-out documents, or contexts in the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from labeler.errors import OptionError
from labeler.eval.audit.ground import Ground, ground_of_contexts
from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.heldout import load_heldout_firings
from labeler.explanations import Context, Place
from labeler.hookpoints import parse_hookpoint
from labeler.inputs import Run
from labeler.labels import READABLE, LabelSet, label_folder


@dataclass(frozen=True, eq=False)
class Rules:
    """Our labels of some latents, on the text of a ground.

    Attributes
    ----------
    calls : TextFirings
        By flat position of the ground and latent (not column).
    lines : dict of int to str
        Line of each latent that has a label.
    """

    calls: TextFirings
    lines: Mapping[int, str]


class Grounds(Protocol):
    """Text to check explanations on, hookpoint by hookpoint."""

    def facts(self) -> dict[str, Any]:
        """What the text is, for ``audit.json``."""
        ...

    def ground(self, hookpoint: str) -> Ground | None:
        """Text and firings; None where there is nothing to check on."""
        ...

    def rules(self, hookpoint: str, latents: Sequence[int]) -> Rules | None:
        """Our labels of these latents; None where there are none."""
        ...

    def missing(self, hookpoint: str, latent: int) -> str | None:
        """Why a latent cannot be found here; None where it can."""
        ...


class RunGrounds:
    """The held-out documents of a run folder with a finished cache.

    Parameters
    ----------
    run : Run
    kind : str
        ``run``, or ``model`` where it was made for this audit.
    """

    def __init__(self, run: Run, kind: str = "run") -> None:
        self.run, self.kind = run, kind

    def facts(self) -> dict[str, Any]:  # noqa: D102
        heldout = self.run.tokens.heldout
        config = self.run.config
        return {
            "kind": self.kind,
            "run": str(self.run.out),
            "model": config.model,
            "coder": config.coder,
            "corpus": config.corpus,
            "tokens": heldout.n_positions,
            "documents": len(np.unique(heldout.doc)),
        }

    def ground(self, hookpoint: str) -> Ground | None:  # noqa: D102
        if hookpoint not in self.run.hookpoints:
            return None
        firings = load_heldout_firings(self.run.cache, hookpoint, self.run.tokens)
        latents = np.arange(firings.n_latents)
        return Ground(hookpoint, self.run.tokens.heldout, latents, firings)

    def rules(self, hookpoint: str, latents: Sequence[int]) -> Rules | None:  # noqa: D102
        folder = label_folder(self.run.out, hookpoint)
        if not (folder / "done.json").exists():
            return None
        labels = LabelSet.load(folder)
        mine = np.unique([one for one in latents if 0 <= one < labels.n_latents]).astype(np.int64)
        mine = mine[labels.labeled[mine]]
        if not len(mine):
            return None
        calls = Claims(labels, READABLE, mine).calls(self.run.tokens.heldout)
        return Rules(calls, {int(one): labels.label(int(one)).text for one in mine})

    def missing(self, hookpoint: str, latent: int) -> str | None:  # noqa: D102
        if hookpoint not in self.run.hookpoints:
            return f"the run has no {hookpoint}, only {', '.join(self.run.hookpoints)}"
        n = self.run.cache.num_latents(hookpoint)
        if 0 <= latent < n:
            return None
        return f"the coder at {hookpoint} has latents 0 to {n - 1}, no {latent}"


class ContextGrounds:
    """The contexts that came with the explanations.

    Parameters
    ----------
    contexts : mapping of Place to sequence of Context
        May be empty: then nothing can be checked on activations.
    """

    def __init__(self, contexts: Mapping[Place, Sequence[Context]]) -> None:
        self.contexts = contexts

    @cached_property
    def _places(self) -> frozenset[str]:
        """Hookpoints with contexts."""
        return frozenset(place for (place, _), found in self.contexts.items() if found)

    def facts(self) -> dict[str, Any]:  # noqa: D102
        if not self._places:
            return {"kind": "none"}
        every = [context for found in self.contexts.values() for context in found]
        return {
            "kind": "contexts",
            "contexts": len(every),
            "latents_with_contexts": sum(bool(found) for found in self.contexts.values()),
            "tokens": sum(len(context.tokens) for context in every),
        }

    def ground(self, hookpoint: str) -> Ground | None:  # noqa: D102
        return ground_of_contexts(hookpoint, self.contexts) if hookpoint in self._places else None

    def rules(self, hookpoint: str, latents: Sequence[int]) -> Rules | None:  # noqa: D102
        return None

    def missing(self, hookpoint: str, latent: int) -> str | None:  # noqa: D102
        return None


def match_places(
    named: Sequence[str], known: Sequence[str] | None, wanted: str | None
) -> dict[str, str]:
    """Hookpoint that each place of the files is audited at; places left out are not audited.

    Parameters
    ----------
    named : sequence of str
        Places that the explanations name.
    known : sequence of str or None
        Hookpoints of the run; None where there is no run.
    wanted : str or None
        What ``--hookpoint`` says: the one place to audit, or where the files' only place is.

    Raises
    ------
    OptionError
        If none of the places is known, or `wanted` is none of several; lists both sides.
    CoderError
        If `wanted` is no name of a place.
    """
    if wanted is None:
        if known is not None and not set(named) & set(known):
            raise OptionError(
                f"the explanations are of {_listed(named)}, the run has {_listed(known)}; give "
                "--hookpoint where they are of one place by another name, or another --run"
            )
        return {name: name for name in named}
    # A name of the files' own is no module path and stays as it is.
    target = wanted if wanted in named else parse_hookpoint(wanted).name
    if known is not None and target not in known:
        raise OptionError(
            f"--hookpoint is {wanted}, the run has {_listed(known)}; name one of them"
        )
    if target in named:
        return {target: target}
    if len(named) == 1:
        return {named[0]: target}
    raise OptionError(
        f"--hookpoint is {wanted}, the explanations are of {_listed(named)}; name one of them"
    )


def _listed(names: Sequence[str]) -> str:
    """Names for a message; files may have thousands, or very long ones."""
    shown = [one if len(one) <= 60 else one[:60] + "…" for one in names[:8]]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(shown) or "no place") + more
