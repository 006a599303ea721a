"""OpenAI's autoencoders of GPT-2 small: one ``.pt`` each (openai/sparse_autoencoder).

    acts = activation((norm(x) - pre_bias) @ encoder.weight.T + latent_bias)
    out  = acts @ decoder.weight.T + pre_bias, scaled back

The activation is ReLU or TopK. Those with TopK centre every input and divide it by its standard
deviation, and scale the output back; the files do not say so, OpenAI's own reader infers it from
the activation.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from labeler.coders.activations import Relu, TopK
from labeler.coders.affine import AffineCoder, AffineWeights
from labeler.coders.coder import CoderFormat
from labeler.coders.place import hookpoint_at
from labeler.coders.tensors import check_fit, check_tensors, matrix_shape
from labeler.coders.torch_files import entries, has_strings, read_torch, stored, tensors
from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint, hookpoint_between
from labeler.model import SubjectModel
from labeler.store import hash_file, hash_json

_KEYS = {"pre_bias", "latent_bias", "encoder.weight"}
_SITES = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}
_FOLDER = re.compile(rf"({'|'.join(_SITES)})(?:_v\w+)?")


def _holds(path: Path) -> bool:
    return path.suffix == ".pt" and path.is_file() and has_strings(path, _KEYS)


def _place(path: Path) -> Hookpoint | None:
    """As they are published: ``resid_post_mlp_v5_32k/autoencoders/6.pt``."""
    folders = reversed(path.absolute().parts[:-1])
    site = next((at for at in map(_FOLDER.fullmatch, folders) if at), None)
    if site is None or not path.stem.isdecimal():
        return None
    hook = f"blocks.{int(path.stem)}.{_SITES[site[1]]}"
    return hookpoint_between(hook, hook)


def _activation(path: Path, state: Mapping[str, object], n_latents: int) -> Relu:
    kind = state.get("activation", "ReLU")
    settings = entries(path, state.get("activation_state_dict", {}), "activation_state_dict")
    if kind == "ReLU":
        return Relu()
    if kind != "TopK":
        raise CoderError(f"{path}: activation is {kind!r}, which is unknown; known: ReLU, TopK")
    k, then = settings.get("k"), settings.get("postact_fn", "ReLU")
    if type(k) is not int or not 1 <= k <= n_latents:
        raise CoderError(
            f"{path}: activation_state_dict.k is {k!r}, expected a number from 1 to {n_latents}"
        )
    if then != "ReLU":
        raise CoderError(
            f"{path}: activation_state_dict.postact_fn is {then!r}, expected ReLU: an activation "
            "below 0 is neither a firing nor silence"
        )
    return TopK(k)


def _load(path: Path, model: SubjectModel, where: str | None) -> AffineCoder:
    hookpoint = hookpoint_at(path, _place(path), where)
    state = entries(path, read_torch(path), "the file")
    n_latents, d = matrix_shape(path, "encoder.weight", stored(state, "encoder.weight"))
    check_fit(path, hookpoint, d, d, model)
    shapes = {
        "encoder.weight": (n_latents, d),
        "latent_bias": (n_latents,),
        "decoder.weight": (d, n_latents),
        "pre_bias": (d,),
    }
    activation = _activation(path, state, n_latents)
    at = check_tensors(path, tensors(path, state, shapes), shapes, said_by="encoder.weight")
    bias = at["pre_bias"]
    decoder = at["decoder.weight"].T.contiguous()
    weights = AffineWeights(at["encoder.weight"], at["latent_bias"], decoder, bias, b_in=bias)
    return AffineCoder(
        hookpoint,
        weights,
        activation,
        fingerprint=hash_json([OPENAI.name, hash_file(path)]),
        norm="standardize" if isinstance(activation, TopK) else "none",
        device=str(model.device),
    )


OPENAI = CoderFormat(
    name="openai",
    layout="resid_post_mlp_v5_32k/autoencoders/6.pt (pre_bias, latent_bias, encoder.weight, ...)",
    holds=_holds,
    load=_load,
    place=_place,
)
