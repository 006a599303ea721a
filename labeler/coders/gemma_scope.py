"""Gemma Scope: JumpReLU autoencoders and transcoders in ``params.npz`` (arXiv:2408.05147).

    acts = relu(pre) * (pre > threshold),  pre = x @ W_enc + b_enc
    out  = acts @ W_dec + b_dec

The decoder's bias is not subtracted from the input. The files do not say where they belong: the
layer is in the path (``layer_20/width_16k/average_l0_71/params.npz``), the place in the name of the
repository (``gemma-scope-2b-pt-res``).
"""

import re
from pathlib import Path

import torch

from labeler.coders.activations import JumpRelu
from labeler.coders.affine import AffineCoder, AffineWeights
from labeler.coders.coder import CoderFormat
from labeler.coders.npz import npz_headers, read_npz
from labeler.coders.place import hookpoint_at
from labeler.coders.tensors import check_fit, check_tensors, matrix_shape
from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint, hookpoint_between
from labeler.model import SubjectModel
from labeler.store import hash_file, hash_json

_LAYER = re.compile(r"layer_(\d+)")
_REPOSITORY = re.compile(r"gemma-scope-[a-z0-9-]*?(res|mlp|att|transcoders)(?:-|$)")
_SITES = {
    "res": ("hook_resid_post", "hook_resid_post"),
    "mlp": ("hook_mlp_out", "hook_mlp_out"),
    "att": ("attn.hook_z", "attn.hook_z"),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
"""End of the repository's name -> what is read, what is written (SAELens has the same)."""


def _holds(path: Path) -> bool:
    return path.name == "params.npz" and path.is_file()


def _place(path: Path) -> Hookpoint | None:
    parts = path.absolute().parts
    layer = next((at for at in map(_LAYER.fullmatch, reversed(parts)) if at), None)
    site = next((at for at in map(_REPOSITORY.search, reversed(parts)) if at), None)
    if layer is None or site is None:
        return None
    read, written = (f"blocks.{int(layer[1])}.{hook}" for hook in _SITES[site[1]])
    return hookpoint_between(read, written)


def _load(path: Path, model: SubjectModel, where: str | None) -> AffineCoder:
    if "embedding" in path.absolute().parts:
        raise CoderError(
            f"{path} is of Gemma Scope's embedding autoencoders, which sit in no block; give "
            "another folder"
        )
    hookpoint = hookpoint_at(path, _place(path), where)
    # The first ones published have small letters.
    headers = {re.sub("^w_", "W_", name): at for name, at in npz_headers(path).items()}
    sizes = {name: header.shape for name, header in headers.items()}
    d_in, n_latents = matrix_shape(path, "W_enc", sizes.get("W_enc"))
    d_out = matrix_shape(path, "W_dec", sizes.get("W_dec"))[1]
    check_fit(path, hookpoint, d_in, d_out, model)
    shapes = {
        "W_enc": (d_in, n_latents),
        "b_enc": (n_latents,),
        "threshold": (n_latents,),
        "W_dec": (n_latents, d_out),
        "b_dec": (d_out,),
    }
    if "scaling_factor" in headers:
        shapes["scaling_factor"] = (n_latents,)
    wanted = {name: header for name, header in headers.items() if name in shapes}
    at = check_tensors(path, read_npz(path, wanted), shapes, said_by="W_enc")
    if "scaling_factor" in at and not torch.equal(at["scaling_factor"], torch.ones(n_latents)):
        raise CoderError(
            f"{path} was fine-tuned with a scaling_factor other than 1, which is not supported; "
            "give a coder without one"
        )
    weights = AffineWeights(at["W_enc"].T, at["b_enc"], at["W_dec"], at["b_dec"])
    fingerprint = hash_json([GEMMA_SCOPE.name, hash_file(path)])
    activation = JumpRelu(at["threshold"])
    return AffineCoder(
        hookpoint, weights, activation, fingerprint=fingerprint, device=str(model.device)
    )


GEMMA_SCOPE = CoderFormat(
    name="gemma_scope",
    layout="gemma-scope-.../layer_20/width_16k/average_l0_71/params.npz",
    holds=_holds,
    load=_load,
    place=_place,
)
