"""Where a sparse coder sits in a model: one canonical name for every spelling.

Canonical names are sparsify's, module paths below the base model: ``layers.3`` (the residual
stream after block 3), ``layers.3.mlp``, ``layers.3.self_attn``. The hooks are those of
``TransformerBridge``.
"""

import re
from dataclasses import dataclass

from labeler.errors import CoderError

EXAMPLES = (
    "layers.3.mlp, layers.3, layers.3.self_attn, blocks.3.hook_mlp_out, blocks.3.hook_resid_post"
)

_MODULE = re.compile(
    r"(?:[a-z_]+\.)*?(?:layers|layer|h|blocks)\.(?P<layer>\d+)(?:\.(?P<site>[a-z_0-9.]+))?"
)
_SITES = {
    "": "",
    "mlp": "mlp",
    "feed_forward": "mlp",
    "self_attn": "self_attn",
    "attn": "self_attn",
    "attention": "self_attn",
    # TransformerLens, as used for SAEs and transcoders
    "hook_resid_post": "",
    "hook_out": "",
    "hook_mlp_out": "mlp",
    "hook_mlp_in": "mlp",
    "mlp.hook_out": "mlp",
    "mlp.hook_in": "mlp",
    "hook_attn_out": "self_attn",
    "attn.hook_out": "self_attn",
    "attn.hook_in": "self_attn",
}
_BRIDGE = {"": "", "mlp": "mlp.", "self_attn": "attn."}


@dataclass(frozen=True, order=True)
class Hookpoint:
    """A place in the model that a sparse coder reads and writes.

    Attributes
    ----------
    layer : int
        Block index, from 0.
    name : str
        Canonical name, e.g. ``layers.3.mlp``.
    hook_in : str
        The bridge's hook whose value the coder encodes.
    hook_out : str
        The bridge's hook whose value the coder reconstructs; equal to `hook_in` for an SAE.
    """

    layer: int
    name: str
    hook_in: str
    hook_out: str


def parse_hookpoint(text: str, *, transcode: bool = True) -> Hookpoint:
    """Read a hookpoint name of sparsify or TransformerLens.

    Parameters
    ----------
    text : str
        ``layers.3.mlp``, ``model.layers.3.mlp``, ``transformer.h.3.mlp``,
        ``gpt_neox.layers.3.attention``, ``blocks.3.hook_mlp_out``, ``blocks.3.hook_resid_post``.
    transcode : bool
        True for a transcoder (module input to module output), False for an autoencoder of the
        module's output.

    Returns
    -------
    Hookpoint
        With the canonical name, whatever the spelling was.

    Raises
    ------
    CoderError
        If the name is none of these; the message gives examples.

    Examples
    --------
    >>> parse_hookpoint("blocks.3.hook_mlp_out").name
    'layers.3.mlp'
    >>> parse_hookpoint("gpt_neox.layers.3.mlp").hook_in
    'blocks.3.mlp.hook_in'
    >>> parse_hookpoint("layers.3", transcode=False)
    Hookpoint(layer=3, name='layers.3', hook_in='blocks.3.hook_out', hook_out='blocks.3.hook_out')
    """
    match = _MODULE.fullmatch(text.strip())
    site = _SITES.get(match["site"] or "") if match else None
    if match is None or site is None:
        raise CoderError(
            f"unknown hookpoint {text!r}: no such place in a block; examples of names that work: "
            f"{EXAMPLES}"
        )
    layer = int(match["layer"])
    prefix = f"blocks.{layer}.{_BRIDGE[site]}"
    return Hookpoint(
        layer=layer,
        name=f"layers.{layer}.{site}" if site else f"layers.{layer}",
        hook_in=prefix + ("hook_in" if transcode else "hook_out"),
        hook_out=prefix + "hook_out",
    )


def layer_order(name: str) -> tuple[int, str]:
    """Sort key of a hookpoint name: by layer, then by name.

    Examples
    --------
    >>> sorted(["layers.10", "layers.9.mlp", "layers.9"], key=layer_order)
    ['layers.9', 'layers.9.mlp', 'layers.10']
    """
    return parse_hookpoint(name).layer, name


_ORDER = (
    "hook_in",
    "attn.hook_in",
    "attn.hook_out",
    "mlp.hook_in",
    "mlp.hook_out",
    "hook_out",
)


def execution_order(hook_name: str) -> tuple[int, int]:
    """Sort key of a bridge hook name: the order in which a forward pass reaches them.

    Examples
    --------
    >>> execution_order("blocks.1.mlp.hook_in") < execution_order("blocks.1.hook_out")
    True
    """
    _, layer, site = hook_name.split(".", 2)
    return int(layer), _ORDER.index(site)
