"""The autoencoders of Turing-LLM: ``sae_layer_0.pth`` to ``sae_layer_11.pth``, a state dict each.

    acts = TopK(relu((x - decoder_bias) @ encoder.weight.T + encoder.bias))
    out  = acts @ decoder.weight.T + decoder_bias

They sit at the output of the MLP. k is in no file: it is 128 + 16 layer, and 192 in layer 0, as in
eval.py of DanielJamesDavies/Explaining-Latents-with-Function-Types.
"""

import re
from pathlib import Path

from labeler.coders.activations import TopK
from labeler.coders.affine import AffineCoder, AffineWeights
from labeler.coders.coder import CoderFormat
from labeler.coders.place import hookpoint_at
from labeler.coders.tensors import check_fit, check_tensors, matrix_shape
from labeler.coders.torch_files import entries, has_strings, read_torch, stored, tensors
from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint, parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import hash_file, hash_json

_COMPILED = "_orig_mod."
"""What torch.compile puts before the names of a module's tensors."""


def _holds(path: Path) -> bool:
    return (
        path.suffix == ".pth"
        and path.is_file()
        and any(
            has_strings(path, {f"{prefix}encoder.weight", f"{prefix}decoder_bias"})
            for prefix in ("", _COMPILED)
        )
    )


def _place(path: Path) -> Hookpoint | None:
    match = re.fullmatch(r"sae_layer_(\d+)", path.stem)
    return match and parse_hookpoint(f"layers.{match[1]}.mlp", transcode=False)


def _load(path: Path, model: SubjectModel, where: str | None) -> AffineCoder:
    hookpoint = hookpoint_at(path, _place(path), where)
    found = entries(path, read_torch(path), "the file")
    state = {name.removeprefix(_COMPILED): value for name, value in found.items()}
    n_latents, d = matrix_shape(path, "encoder.weight", stored(state, "encoder.weight"))
    check_fit(path, hookpoint, d, d, model)
    shapes = {
        "encoder.weight": (n_latents, d),
        "encoder.bias": (n_latents,),
        "decoder.weight": (d, n_latents),
        "decoder_bias": (d,),
    }
    k = 128 + 16 * (hookpoint.layer or 4)
    if k > n_latents:
        raise CoderError(
            f"{path} has {n_latents} latents, fewer than the {k} that may fire in layer "
            f"{hookpoint.layer} of Turing-LLM; is it another coder?"
        )
    at = check_tensors(path, tensors(path, state, shapes), shapes, said_by="encoder.weight")
    bias = at["decoder_bias"]
    decoder = at["decoder.weight"].T.contiguous()
    weights = AffineWeights(at["encoder.weight"], at["encoder.bias"], decoder, bias, b_in=bias)
    # The file does not hold k, which another name or place would change.
    fingerprint = hash_json([TURING.name, hash_file(path), k])
    return AffineCoder(
        hookpoint, weights, TopK(k), fingerprint=fingerprint, device=str(model.device)
    )


TURING = CoderFormat(
    name="turing",
    layout="sae_layer_0.pth (encoder.weight, decoder_bias, ...)",
    holds=_holds,
    load=_load,
    place=_place,
)
