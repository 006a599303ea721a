"""Where a sparse coder sits in a model: one canonical name for every spelling.

Canonical names are sparsify's, module paths below the base model, and some more for what is no
module's output::

    layers.3                     the residual stream after block 3
    layers.3.resid_pre           the residual stream before block 3
    layers.3.resid_mid           the residual stream between attention and MLP (sequential blocks)
    layers.3.mlp                 the MLP: its output, and its input for a transcoder
    layers.3.mlp.in              the MLP's input, where a coder reconstructs that
    layers.3.mlp.normalized      the same before the norm's gain and bias
    layers.3.mlp.hidden          the MLP's hidden activations: the input of its down projection
    layers.3.self_attn           attention: its output, and its input for a transcoder
    layers.3.self_attn.in        attention's input, where a coder reconstructs that
    layers.3.self_attn.normalized  the same before the norm's gain and bias
    layers.3.self_attn.z         what the heads give, one after the other, before the output matrix

The hooks are those of ``TransformerBridge``, whose model is unprocessed (nothing folded, nothing
centered). Three of TransformerLens' names need a word:

- ``hook_mlp_out`` and ``hook_attn_out`` are what is added to the residual stream. In models with a
  norm after the sublayer (Gemma 2 and 3) that is the norm's output, while ``mlp.hook_out`` and the
  module path ``layers.3.mlp`` are the module's own.
- ``ln2.hook_normalized`` is (x - mean) / scale, or x / scale for RMSNorm, without gain and bias. It
  is the same with folded weights, where the MLP reads it as it is, and without, with one exception:
  TransformerLens before version 3 put it after gain and bias in LayerNorm models with unfolded
  weights. That value is ``mlp.hook_in`` here.
- ``hook_mlp_in`` is the residual stream before that norm.
"""

import re
from dataclasses import dataclass

from labeler.errors import CoderError

EXAMPLES = (
    "layers.3.mlp, layers.3, layers.3.self_attn, blocks.3.hook_mlp_out, blocks.3.hook_resid_post, "
    "blocks.3.hook_resid_pre, blocks.3.hook_resid_mid, blocks.3.attn.hook_z, blocks.3.mlp.hook_post"
)

_MODULE = re.compile(
    r"(?:[a-z_]+\.)*?(?:layers|layer|h|blocks)\.(?P<layer>\d+)(?:\.(?P<site>[a-z_0-9.]+))?"
)
_PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "hook_in": ("resid_pre", ("hook_resid_pre",)),
    "ln1.hook_normalized": ("self_attn.normalized", ()),
    "attn.hook_in": ("self_attn.in", ()),
    "attn.o.hook_in": ("self_attn.z", ("attn.hook_z",)),
    "attn.hook_out": ("self_attn", ("attn", "attention")),
    "hook_attn_out": ("self_attn", ()),
    "hook_resid_mid": ("resid_mid", ("hook_mlp_in",)),
    "ln2.hook_normalized": ("mlp.normalized", ()),
    "mlp.hook_in": ("mlp.in", ()),
    "mlp.out.hook_in": ("mlp.hidden", ("mlp.hook_post",)),
    "mlp.hook_out": ("mlp", ("feed_forward",)),
    "hook_mlp_out": ("mlp", ()),
    "hook_out": ("", ("hook_resid_post",)),
}
"""The bridge's hook in a block to its canonical name and other spellings, in forward order."""

_HOOKS = {
    spelling: hook
    # Backwards: of two hooks with one name, the name alone means the module's own, the earlier.
    for hook, (name, others) in reversed(_PLACES.items())
    for spelling in (name, hook, *others)
}
_ORDER = {hook: number for number, hook in enumerate(_PLACES)}
_READ = {
    "hook_out": "hook_in",
    "mlp.hook_out": "mlp.hook_in",
    "hook_mlp_out": "mlp.hook_in",
    "attn.hook_out": "attn.hook_in",
    "hook_attn_out": "attn.hook_in",
}
"""What a transcoder reads, by what it writes, where only the latter is named."""

_WRITTEN = {
    "mlp.hook_in": "mlp.hook_out",
    "ln2.hook_normalized": "hook_mlp_out",
    "attn.hook_in": "attn.hook_out",
    "ln1.hook_normalized": "hook_attn_out",
}
"""What a transcoder writes, where it is named by the hook that it reads."""


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
        ``gpt_neox.layers.3.attention``, ``blocks.3.hook_mlp_out``, ``blocks.3.hook_resid_post``,
        ``blocks.3.attn.hook_z``, any canonical name.
    transcode : bool
        True for a transcoder (a module's input to its output), named by either; False for an
        autoencoder of the place itself. No matter where the place is no module's.

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
    layer, site, hook = _place(text)
    if transcode and hook in _READ:
        return _between(layer, _READ[hook], hook)
    # A canonical name (mlp.in) means its place alone, or it would not name what it was made for.
    if transcode and hook in _WRITTEN and site == hook:
        return _between(layer, hook, _WRITTEN[hook])
    return _between(layer, hook, hook)


def hookpoint_between(hook_in: str, hook_out: str) -> Hookpoint:
    """The hookpoint of a coder that names the place it reads and the place it writes.

    Parameters
    ----------
    hook_in, hook_out : str
        Each as for `parse_hookpoint`, and each meaning that very place: equal for an autoencoder,
        ``blocks.3.ln2.hook_normalized`` and ``blocks.3.hook_mlp_out`` for a transcoder of
        TransformerLens.

    Returns
    -------
    Hookpoint
        Named after the place that is written.

    Raises
    ------
    CoderError
        If a name is unknown, or the coder does not write later in the block that it reads.

    Examples
    --------
    >>> hookpoint_between("blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out").name
    'layers.3.mlp'
    >>> hookpoint_between("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out").hook_in
    'blocks.3.ln2.hook_normalized'
    """
    layer, _, read = _place(hook_in)
    layer_out, _, written = _place(hook_out)
    if layer != layer_out or _ORDER[read] > _ORDER[written]:
        raise CoderError(
            f"a coder that reads {hook_in} and writes {hook_out} cannot be used: both must be in "
            "one block, the first before the second"
        )
    return _between(layer, read, written)


def _place(text: str) -> tuple[int, str, str]:
    """Layer, site as it was spelled, and the bridge's hook in the block."""
    match = _MODULE.fullmatch(text.strip())
    site = (match["site"] or "") if match else ""
    if match is None or site not in _HOOKS:
        raise CoderError(
            f"unknown hookpoint {text!r}: no such place in a block; examples of names that work: "
            f"{EXAMPLES}"
        )
    return int(match["layer"]), site, _HOOKS[site]


def _between(layer: int, hook_in: str, hook_out: str) -> Hookpoint:
    site, prefix = _PLACES[hook_out][0], f"blocks.{layer}."
    name = f"layers.{layer}.{site}" if site else f"layers.{layer}"
    return Hookpoint(layer, name, prefix + hook_in, prefix + hook_out)


def layer_order(name: str) -> tuple[int, str]:
    """Sort key of a hookpoint name: by layer, then by name.

    Examples
    --------
    >>> sorted(["layers.10", "layers.9.mlp", "layers.9"], key=layer_order)
    ['layers.9', 'layers.9.mlp', 'layers.10']
    """
    return parse_hookpoint(name).layer, name


def execution_order(hook_name: str) -> tuple[int, int]:
    """Sort key of a bridge hook name: the order in which a forward pass reaches them.

    Examples
    --------
    >>> execution_order("blocks.1.mlp.hook_in") < execution_order("blocks.1.hook_out")
    True
    """
    _, layer, site = hook_name.split(".", 2)
    return int(layer), _ORDER[site]
