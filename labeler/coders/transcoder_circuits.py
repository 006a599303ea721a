"""Coders of jacobdunefsky/transcoder_circuits: ``.pt`` or ``.pkl.gz`` with ``cfg``, ``state_dict``.

    acts = relu((x - b_dec) @ W_enc + b_enc)
    out  = acts @ W_dec + b_dec_out        (a transcoder)
    out  = acts @ W_dec + b_dec            (an autoencoder)

``cfg`` is a pickled object of theirs; only its plain values are read: see
`labeler.coders.restricted`.

They were trained on TransformerLens' processed model, whose sublayers write nothing along the mean
of the residual stream. LayerNorm models read none of that, so at its hooks the input is centered
here; at ``ln2.hook_normalized``, where the published ones read, nothing differs.
"""

from collections.abc import Mapping
from pathlib import Path

from labeler.coders.activations import Relu
from labeler.coders.affine import AffineCoder, AffineWeights
from labeler.coders.coder import CoderFormat
from labeler.coders.place import hookpoint_at
from labeler.coders.restricted import Bag
from labeler.coders.tensors import check_fit, check_tensors, matrix_shape
from labeler.coders.torch_files import entries, has_strings, read_torch, stored, tensors
from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint, hookpoint_between
from labeler.model import SubjectModel
from labeler.store import hash_file, hash_json

_CENTERED = (".hook_in", ".hook_resid_mid", ".hook_out", ".hook_attn_out", ".hook_mlp_out")
"""Ends of hooks where a processed model has no mean."""

_KEYS = {"cfg", "state_dict", "W_enc", "b_dec"}


def _holds(path: Path) -> bool:
    named = path.name.endswith((".pt", ".pkl", ".pkl.gz"))
    return named and path.is_file() and has_strings(path, _KEYS)


def _place(path: Path) -> Hookpoint | None:
    return _where(path, _config(path, _value(path))) if path.is_file() else None


def _value(path: Path) -> Mapping[str, object]:
    found = entries(path, read_torch(path), "the file")
    if missing := {"cfg", "state_dict"} - set(found):
        raise CoderError(
            f"{path} lacks {', '.join(sorted(missing))}; a file of transcoder_circuits has cfg and "
            f"state_dict, and this one has {', '.join(found) or 'nothing'}"
        )
    return found


def _config(path: Path, value: Mapping[str, object]) -> Mapping[str, object]:
    config = value["cfg"]
    return config.attributes if isinstance(config, Bag) else entries(path, config, "cfg")


def _where(path: Path, config: Mapping[str, object]) -> Hookpoint | None:
    """The place that cfg names; autoencoders write what they read."""
    if config.get("hook_point_head_index") is not None:
        raise CoderError(f"{path} is for one attention head (hook_point_head_index): not supported")
    read = config.get("hook_point")
    written = config.get("out_hook_point") if config.get("is_transcoder") is True else read
    if not isinstance(read, str) or not isinstance(written, str):
        return None
    try:
        return hookpoint_between(read, written)
    except CoderError as error:
        raise CoderError(f"{path}: cfg.hook_point and cfg.out_hook_point: {error}") from None


def _load(path: Path, model: SubjectModel, where: str | None) -> AffineCoder:
    value = _value(path)
    config = _config(path, value)
    hookpoint = hookpoint_at(path, _where(path, config), where)
    state = entries(path, value["state_dict"], "state_dict")
    d_in, n_latents = matrix_shape(path, "W_enc", stored(state, "W_enc"))
    d_out = matrix_shape(path, "W_dec", stored(state, "W_dec"))[1]
    check_fit(path, hookpoint, d_in, d_out, model)
    bias = "b_dec_out" if config.get("is_transcoder") is True else "b_dec"
    shapes = {
        "W_enc": (d_in, n_latents),
        "b_enc": (n_latents,),
        "W_dec": (n_latents, d_out),
        "b_dec": (d_in,),
        bias: (d_out,),
    }
    at = check_tensors(path, tensors(path, state, shapes), shapes, said_by="W_enc")
    weights = AffineWeights(at["W_enc"].T, at["b_enc"], at["W_dec"], at[bias], b_in=at["b_dec"])
    centered = model.layer_norm and hookpoint.hook_in.endswith(_CENTERED)
    return AffineCoder(
        hookpoint,
        weights,
        Relu(),
        fingerprint=hash_json([TRANSCODER_CIRCUITS.name, hash_file(path)]),
        norm="center" if centered else "none",
        device=str(model.device),
    )


TRANSCODER_CIRCUITS = CoderFormat(
    name="transcoder_circuits",
    layout="one .pt or .pkl.gz with cfg and state_dict (W_enc, b_dec, ...)",
    holds=_holds,
    load=_load,
    place=_place,
)
