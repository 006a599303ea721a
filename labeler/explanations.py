"""Explanations: what others wrote about latents, in prose, and the contexts they came with.

Readers of `labeler.interop` make them from every format; `labeler explain` writes them; the audit
judges them. A *label* is ours and runs; an *explanation* is prose by somebody else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from labeler.arrays import Floats


@dataclass(frozen=True)
class Explanation:
    """What somebody wrote about one latent.

    Attributes
    ----------
    hookpoint : str
        Canonical (``layers.3.mlp``) where the file's own name for the place can be read as such,
        else that name as it stands (``6-res-jb``).
    latent : int
    text : str
        As stored; may be empty, an error message, HTML or anything else.
    author : str
        Who wrote it: the name of a model or method, ``human``, or "" where the file does not say.
    published : mapping of str to float
        Scores that came with it, by the name they have there (``detection accuracy``).
    origin : str
        File, and line or record within it, for messages.
    """

    hookpoint: str
    latent: int
    text: str
    author: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True, eq=False)
class Context:
    """A stretch of text with a latent's activations, as somebody stored it.

    Attributes
    ----------
    tokens : tuple of str
        Text of each token; joined, they are the context.
    acts : float32 [n_tokens]
        0 or below where silent.
    chosen : str
        Why it was stored: ``top`` (among the strongest), ``quantile`` (from all over the range),
        ``random`` (whether it fires or not), "" where the file does not say.
    """

    tokens: tuple[str, ...]
    acts: Floats
    chosen: str = ""


Place = tuple[str, int]
"""Hookpoint and latent."""


@dataclass(frozen=True, eq=False)
class Explanations:
    """What a file or folder of explanations holds.

    Attributes
    ----------
    explanations : tuple of Explanation
        In the order of the files; a latent may have several.
    contexts : mapping of Place to tuple of Context
        Stored contexts, of explained latents or others; empty where the files have none.
    format : str
        Name of the format they were read from.
    notes : tuple of str
        What a reader must be told: records passed over and why, assumptions made.
    """

    explanations: tuple[Explanation, ...]
    contexts: Mapping[Place, tuple[Context, ...]]
    format: str
    notes: tuple[str, ...] = ()
