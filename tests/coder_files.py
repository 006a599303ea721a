"""Sparse coders in the layouts of others, as their own code writes them, with random weights."""

import gzip
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labeler.coders import AffineCoder, Coder, load_coders
from labeler.model import SubjectModel

Arrays = dict[str, np.ndarray[Any, Any]]

GEMMA = "gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_71"
OPENAI = "resid_post_mlp_v5_32k/autoencoders"


def draw(seed: int, **shapes: tuple[int, ...]) -> Arrays:
    """Normal random arrays, in float32."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=at).astype(np.float32) for name, at in shapes.items()}


def gemma_arrays(seed: int = 0, d: int = 32, n: int = 48) -> Arrays:
    """``params.npz`` of Gemma Scope; thresholds lie on both sides of most pre-activations."""
    arrays = draw(seed, W_enc=(d, n), W_dec=(n, d), b_enc=(n,), b_dec=(d,), threshold=(n,))
    arrays["threshold"] = np.abs(arrays["threshold"]) * 3
    return arrays


def write_gemma(folder: Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> Path:
    """``<folder>/params.npz``."""
    folder.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if compressed else np.savez)(folder / "params.npz", **arrays)
    return folder / "params.npz"


@contextmanager
def training_code(name: str = "sae_training.config") -> Iterator[type]:
    """The class of transcoder_circuits' configs, there while files are written and then no more."""
    module = types.ModuleType(name)
    kind = type("LanguageModelSAERunnerConfig", (), {"__module__": name})
    module.LanguageModelSAERunnerConfig = kind  # type: ignore[attr-defined]
    parent = name.partition(".")[0]
    names = {parent: types.ModuleType(parent), name: module}
    sys.modules |= names
    try:
        yield kind
    finally:
        for at in names:
            del sys.modules[at]


CONFIG: dict[str, Any] = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.1.ln2.hook_normalized",
    "hook_point_layer": 1,
    "hook_point_head_index": None,
    "is_transcoder": True,
    "out_hook_point": "blocks.1.hook_mlp_out",
    "d_in": 32,
    "lr": 0.0004,
    "use_ghost_grads": (True,),
    "device": torch.device("cuda"),
    "dtype": torch.float32,
    "feature_sampling_method": None,
    "notes": ["a", 2.5, {"b": False, "big": 1 << 40}],
}
"""Values of all kinds that theirs have."""


def circuits_tensors(
    seed: int = 0, d: int = 32, n: int = 48, out: int | None = None
) -> dict[str, Tensor]:
    """A state dict of transcoder_circuits."""
    out = d if out is None else out
    arrays = draw(seed, W_enc=(d, n), b_enc=(n,), W_dec=(n, out), b_dec=(d,), b_dec_out=(out,))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def write_circuits(
    path: Path, tensors: Mapping[str, Any], *, zipped: bool = True, **cfg: Any
) -> Path:
    """As ``SparseAutoencoder.save_model`` does: ``.pt``, or ``.pkl.gz`` by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with training_code() as kind:
        config = kind()
        vars(config).update(CONFIG | cfg)
        value = {"cfg": config, "state_dict": _with_metadata(tensors)}
        if path.name.endswith(".pkl.gz"):
            with gzip.open(path, "wb") as stream:
                pickle.dump(value, stream)
        elif path.name.endswith(".pkl"):
            path.write_bytes(pickle.dumps(value))
        else:
            torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def _with_metadata(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict as a module gives it: with the attribute that torch hangs on it."""
    module = torch.nn.Module()
    state: Any = module.state_dict()
    state |= dict(tensors)
    return state  # type: ignore[no-any-return]


def openai_state(seed: int = 0, d: int = 32, n: int = 48, k: int | None = 6) -> dict[str, Any]:
    """A state dict of OpenAI's Autoencoder; ReLU where there is no k."""
    arrays = draw(seed, pre_bias=(d,), latent_bias=(n,), encoder=(n, d), decoder=(d, n))
    state: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for name in ("encoder", "decoder"):
        state[f"{name}.weight"] = state.pop(name)
    state["stats_last_nonzero"] = torch.zeros(n, dtype=torch.long)
    state["activation"] = "ReLU" if k is None else "TopK"
    state["activation_state_dict"] = {} if k is None else {"k": k, "postact_fn": "ReLU"}
    return state


def turing_state(seed: int = 0, d: int = 32, n: int = 256) -> dict[str, Tensor]:
    """A state dict of Turing-LLM's SAE; the decoder lies transposed in memory, as theirs does."""
    arrays = draw(seed, encoder=(n, d), bias=(n,), decoder=(n, d), decoder_bias=(d,))
    return {
        "encoder.weight": torch.from_numpy(arrays["encoder"]),
        "encoder.bias": torch.from_numpy(arrays["bias"]),
        "decoder.weight": torch.from_numpy(arrays["decoder"]).T,
        "decoder_bias": torch.from_numpy(arrays["decoder_bias"]),
    }


def save(path: Path, state: Mapping[str, Any]) -> Path:
    """``torch.save``, with the folders on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state), path)
    return path


# --- what their formulas give

Doubles = np.ndarray[Any, np.dtype[np.float64]]


def doubles(values: Any) -> Doubles:
    """In float64, from any kind of array."""
    tensor = values if isinstance(values, torch.Tensor) else torch.as_tensor(np.asarray(values))
    return tensor.double().numpy()


def inputs(n: int = 50, d: int = 32) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(3)) * 2 + 0.3


def top(acts: Doubles, k: int) -> Doubles:
    """All but the k largest of each row set to 0."""
    smallest = np.sort(acts, axis=1)[:, -k][:, None]
    return np.where(acts >= smallest, acts, 0)


def loaded(source: Path, model: SubjectModel, *hookpoints: str) -> AffineCoder:
    """The one coder that is there."""
    found = load_coders(source, model=model, hookpoints=hookpoints or None)
    (coder,) = found.values()
    assert list(found) == [coder.hookpoint.name]
    assert isinstance(coder, AffineCoder)
    return coder


def check(coder: Coder, acts: Doubles, out: Doubles, x: torch.Tensor) -> None:
    """Encode, firings and output against an independent computation in float64."""
    found = coder.encode(x)
    assert found.dtype == torch.float32
    assert ((found > 0).numpy() == (acts > 0)).mean() > 0.999
    np.testing.assert_allclose(found, acts, rtol=1e-4, atol=2e-4)
    assert 0 < (acts > 0).mean() < 1
    row, latent, act = coder.firings(x)
    expected = found.nonzero(as_tuple=True)
    assert torch.equal(row, expected[0])
    assert torch.equal(latent, expected[1])
    assert torch.equal(act, found[expected])
    assert isinstance(coder, AffineCoder)
    assert coder.W_enc.shape == (coder.num_latents, coder.d_in)
    assert coder.W_dec.shape == (coder.num_latents, coder.d_out)
    np.testing.assert_allclose(coder.output(found, x), out, rtol=1e-3, atol=2e-3)


# --- hostile ones


class Reduced:
    """Pickles to a call of anything."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """What is pickled in place of a function must be callable."""
