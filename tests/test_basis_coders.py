"""Neurons, axes of the residual stream and directions as coders: by hand, and by transformers."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import D_MODEL, N_LAYERS
from torch import Tensor

from labeler import steps
from labeler.coders import directions_file
from labeler.coders.basis import BasisCoder, BasisConfig, is_basis, load_basis
from labeler.coders.coder import Coder
from labeler.coders.directions import DirectionCoder, load_directions
from labeler.config import RunConfig
from labeler.errors import CoderError
from labeler.eval.rewrite import hook_pair
from labeler.eval.rewrite_curves import topk_again
from labeler.hookpoints import parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import hash_file
from labeler.weights import latent_weights

D_MLP = 64
PLACE = parse_hookpoint("layers.0", transcode=False)


def axes(d: int, k: int) -> BasisCoder:
    return BasisCoder(BasisConfig("residual", d, k), PLACE)


def values(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def check_firings(coder: Coder, x: Tensor) -> None:
    """Firings are the positive entries of `encode`, in order."""
    dense = coder.encode(x)
    assert dense.shape == (len(x), coder.num_latents)
    row, latent = (dense > 0).nonzero(as_tuple=True)
    found = coder.firings(x)
    torch.testing.assert_close(found[0], row)
    torch.testing.assert_close(found[1], latent)
    torch.testing.assert_close(found[2], dense[row, latent])
    assert bool((dense >= 0).all())


# --- axes


def test_axes_derived_by_hand() -> None:
    x = torch.tensor([[1.0, -3.0, 0.5], [0.0, 0.0, -2.0]])
    coder = axes(3, 2)
    assert [part.tolist() for part in coder.firings(x)] == [[0, 0, 1], [0, 4, 5], [1, 3, 2]]
    assert coder.encode(x).tolist() == [[1, 0, 0, 0, 3, 0], [0, 0, 0, 0, 0, 2]]
    assert coder.decode(coder.encode(x)).tolist() == [[1, -3, 0], [0, 0, -2]]
    assert coder.skip(x).item() == 0


@pytest.mark.parametrize("k", [1, 5, 32])
def test_axes_keep_the_k_strongest_and_nothing_else(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, coder = values(19, 32), axes(32, k)
    monkeypatch.setattr("labeler.coders.activations.MAX_AT_ONCE", 3 * 32)
    check_firings(coder, x)
    made = coder.decode(coder.encode(x)) + coder.skip(x)
    weakest = x.abs().sort(dim=1, descending=True).values[:, k - 1 : k]
    torch.testing.assert_close(made, torch.where(x.abs() >= weakest, x, 0.0), rtol=0, atol=0)
    if k == 32:
        torch.testing.assert_close(made, x, rtol=0, atol=0)


def test_axes_are_silent_on_nothing_at_all() -> None:
    assert [len(part) for part in axes(4, 2).firings(torch.zeros(3, 4))] == [0, 0, 0]
    assert [len(part) for part in axes(4, 2).firings(torch.zeros(0, 4))] == [0, 0, 0]


def test_the_decoder_is_linear_and_w_dec_says_how() -> None:
    acts = values(7, 12).abs()
    for coder in (axes(6, 2), probe(values(12, 9), bias=values(1, 12)[0])):
        nothing = coder.decode(torch.zeros(1, 12))
        torch.testing.assert_close(
            coder.decode(acts), acts @ coder.W_dec + nothing, rtol=1e-4, atol=1e-5
        )
        assert coder.W_dec.shape == (coder.num_latents, coder.d_out)


def test_a_second_topk_keeps_k_of_the_latents() -> None:
    acts = values(5, 12).abs()
    kept = topk_again(axes(6, 4), acts)
    assert (kept > 0).sum(dim=1).tolist() == [4] * 5
    assert bool(((kept == 0) | (kept == acts)).all())
    torch.testing.assert_close(topk_again(probe(values(12, 6)), acts), acts)


# --- in a model


def hidden_of(reference: Any, ids: Tensor, layer: int) -> Tensor:
    """Hidden activations of an MLP of plain transformers, by a hook."""
    found: list[Tensor] = []
    handle = reference.model.layers[layer].mlp.down_proj.register_forward_pre_hook(
        lambda _, x: found.append(x[0].clone())
    )
    with torch.no_grad():
        reference(ids)
    handle.remove()
    return found[0]


@pytest.fixture(scope="module")
def reference(model_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folder).eval()


@pytest.fixture(scope="module")
def ids(model: SubjectModel) -> Tensor:
    return torch.randint(0, model.n_vocab, (3, 17), generator=torch.Generator().manual_seed(0))


def test_neurons_fire_as_the_hidden_activations_of_transformers(
    model: SubjectModel, reference: Any, ids: Tensor
) -> None:
    coders = load_basis("neurons:5", model=model, hookpoints=None)
    assert list(coders) == ["layers.0.mlp.hidden", "layers.1.mlp.hidden"]
    for layer, coder in enumerate(coders.values()):
        wanted = hidden_of(reference, ids, layer).reshape(-1, D_MLP)
        seen: list[Tensor] = []
        model.run(ids, {coder.hookpoint.hook_in: seen.append})
        found = coder.encode(seen[0].reshape(-1, D_MLP))
        assert coder.num_latents == 2 * D_MLP
        for row, acts in zip(wanted, found, strict=True):
            strongest = set(sorted(range(D_MLP), key=lambda j: -abs(row[j]))[:5])
            fires = {int(latent) for latent in acts.nonzero()}
            assert fires == {j + D_MLP * int(row[j] < 0) for j in strongest}
            signed = acts[:D_MLP] - acts[D_MLP:]
            for j in strongest:
                assert float(signed[j]) == pytest.approx(float(row[j]), rel=1e-4, abs=1e-6)


def test_neurons_promote_what_their_output_weights_promote(
    model: SubjectModel, reference: Any
) -> None:
    (coder,) = load_basis("neurons", model=model, hookpoints=["layers.1.mlp.hidden"]).values()
    found = latent_weights(model, coder).promoted
    with torch.no_grad():
        written = reference.model.layers[1].mlp.down_proj.weight.T
        directions = reference.model.norm(torch.cat([written, -written]))
        scores = directions @ reference.lm_head.weight.T
    # Every neuron comes with both signs, so the mean over latents, which is taken off, is 0.
    assert len(found) == 2 * D_MLP
    for latent in (0, 17, D_MLP, D_MLP + 17):
        best = scores[latent].argsort(descending=True)[:5].tolist()
        assert [token for token in found[latent].tolist() if token in best][:5] == best


@pytest.mark.parametrize("kind", ["neurons", "residual"])
def test_all_axes_are_the_model_and_some_axes_are_less(
    model: SubjectModel, reference: Any, ids: Tensor, kind: str
) -> None:
    def logits(source: str) -> Tensor:
        hooks = {}
        for coder in load_basis(source, model=model, hookpoints=None).values():
            hooks |= hook_pair(
                coder, lambda x, coder=coder: coder.decode(coder.encode(x)) + coder.skip(x)
            )
        found = model.run(ids, hooks)
        assert found is not None
        return found

    with torch.no_grad():
        plain = reference(ids).logits
    d = D_MLP if kind == "neurons" else D_MODEL
    torch.testing.assert_close(logits(f"{kind}:{d}"), plain, rtol=1e-4, atol=1e-4)
    # 3 axes: by a hook of plain transformers that zeroes all but the largest.
    module = (lambda block: block.mlp.down_proj) if kind == "neurons" else (lambda block: block)

    def cut(x: Tensor) -> Tensor:
        limit = x.abs().sort(dim=-1, descending=True).values[..., 2:3]
        return x * (x.abs() >= limit)

    handles = []
    for block in reference.model.layers:
        if kind == "neurons":
            handle = module(block).register_forward_pre_hook(lambda _, x: (cut(x[0]),))
        else:
            handle = module(block).register_forward_hook(lambda _, x, y: cut(y))
        handles.append(handle)
    with torch.no_grad():
        less = reference(ids).logits
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits(f"{kind}:3"), less, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(less, plain, atol=0.1)


def test_hookpoints_asked_for_come_in_layer_order(model: SubjectModel) -> None:
    found = load_basis("residual", model=model, hookpoints=["blocks.1.hook_resid_post", "layers.0"])
    assert list(found) == ["layers.0", "layers.1"]
    assert {coder.d_in for coder in found.values()} == {D_MODEL}
    (neurons,) = load_basis("neurons", model=model, hookpoints=["blocks.1.mlp.hook_post"]).values()
    # 64 neurons in all, so the default keeps every one of them.
    assert (neurons.hookpoint.name, neurons.config.k) == ("layers.1.mlp.hidden", 64)  # type: ignore[attr-defined]


def test_fingerprints_tell_place_kind_and_k_apart(model: SubjectModel) -> None:
    found = [
        coder.fingerprint
        for source in ("neurons:3", "neurons:4", "residual:3")
        for coder in load_basis(source, model=model, hookpoints=None).values()
    ]
    again = load_basis("neurons:3", model=model, hookpoints=["layers.1.mlp.hidden"])
    assert len(set(found)) == 3 * N_LAYERS
    assert again["layers.1.mlp.hidden"].fingerprint == found[1]


@pytest.mark.parametrize(
    ("source", "hookpoints", "said"),
    [
        ("neurons:0", None, r"neurons:0.*'0' is no number from 1 to 64.*neurons:64"),
        ("neurons:65", None, r"no number from 1 to 64"),
        ("residual:-1", None, r"'-1' is no number from 1 to 32.*residual:32"),
        ("residual:", None, r"'' is no number"),
        ("residual:²", None, r"'²' is no number"),
        ("neurons:" + "9" * 5000, None, r"no number from 1 to 64"),
        ("neurons", ["layers.0.mlp"], r"reads layers.N.mlp.hidden, not layers.0.mlp;.*or name"),
        ("residual", ["layers.2"], r"layers.2: .* has layers 0 to 1"),
        ("residual", ["somewhere"], r"unknown hookpoint 'somewhere'"),
    ],
)
def test_wrong_names_are_said(
    model: SubjectModel, source: str, hookpoints: list[str] | None, said: str
) -> None:
    assert is_basis(source)
    with pytest.raises(CoderError, match=said):
        load_basis(source, model=model, hookpoints=hookpoints)


# --- directions


def probe(
    rows: Tensor, bias: Tensor | None = None, threshold: Tensor | None = None
) -> DirectionCoder:
    nothing = torch.zeros(len(rows))
    return DirectionCoder(
        PLACE,
        rows,
        nothing if bias is None else bias,
        nothing if threshold is None else threshold,
        fingerprint="",
    )


def test_directions_derived_by_hand() -> None:
    # u = (2 x0 - 1, x0 + x1): from (3, 2, 7) that is (5, 5), from (1, -2, 1) it is (1, -1), and
    # a threshold of 2 silences the 1 as well.
    coder = probe(
        torch.tensor([[2.0, 0, 0], [1, 1, 0]]),
        bias=torch.tensor([-1.0, 0]),
        threshold=torch.tensor([2.0, -5]),
    )
    x = torch.tensor([[3.0, 2, 7], [1, -2, 1]])
    assert coder.encode(x).tolist() == [[5, 5], [0, 0]]
    # In the plane of x0 and x1 the second becomes the point with u = (0, 0): x0 = 1/2, x1 = -1/2.
    torch.testing.assert_close(
        coder.decode(coder.encode(x)), torch.tensor([[3.0, 2, 0], [0.5, -0.5, 0]])
    )
    torch.testing.assert_close(coder.skip(x), torch.tensor([[0.0, 0, 7], [0, 0, 1]]))


@pytest.mark.parametrize("n", [1, 5, 9, 14])
def test_directions_that_all_fire_give_the_input_back(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = values(n, 9) * torch.logspace(-2, 2, n)[:, None]
    coder = probe(rows, bias=torch.full((n,), 1e4))
    x = values(11, 9, seed=1)
    monkeypatch.setattr("labeler.coders.activations.MAX_AT_ONCE", 3 * n)
    check_firings(coder, x)
    assert bool((coder.encode(x) > 0).all())
    made = coder.decode(coder.encode(x)) + coder.skip(x)
    # float32 at 1e4 has steps of 1e-3, and the shortest direction is 1e-2 long.
    torch.testing.assert_close(made, x, rtol=0, atol=0.3)
    exact = probe(rows)
    torch.testing.assert_close(exact.decode(x @ rows.T) + exact.skip(x), x, rtol=1e-4, atol=1e-4)


def test_the_skip_path_holds_nothing_that_a_direction_reads() -> None:
    coder, x = probe(values(4, 9)), values(11, 9, seed=1)
    rest = coder.skip(x)
    torch.testing.assert_close(rest @ coder.W_enc.T, torch.zeros(11, 4), rtol=0, atol=1e-5)
    # It is the same whatever fires: linear, so that signs and sizes of what it drops do not matter.
    moved = x + 3 * coder.W_enc[2] - coder.W_enc[0]
    torch.testing.assert_close(coder.skip(moved), rest, rtol=1e-4, atol=1e-5)
    # numpy's least squares agrees about what is left over.
    solved = np.linalg.lstsq(coder.W_enc.T.numpy(), x.T.numpy(), rcond=None)[0]
    np.testing.assert_allclose(x.numpy() - (coder.W_enc.T.numpy() @ solved).T, rest, atol=1e-5)


def test_the_same_direction_twice_counts_once() -> None:
    one = values(1, 9)
    coder = probe(torch.cat([one, one * (1 + 1e-7), 3 * one]))
    x = values(6, 9, seed=1)
    assert float(coder.W_dec.abs().max()) < 10
    torch.testing.assert_close(
        coder.decode(x @ coder.W_enc.T), probe(one).decode(x @ one.T), rtol=1e-4, atol=1e-5
    )


# --- files of directions

Write = Callable[[Path], Path]
ROWS = values(5, D_MODEL).numpy()


def save(path: Path, **arrays: Any) -> Path:
    """Write a file of directions in the format of its name."""
    if path.suffix == ".npy":
        np.save(path, arrays["directions"])
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        from safetensors.torch import save_file

        said = arrays.pop("hookpoint", None)
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()
        }
        save_file(tensors, path, metadata=None if said is None else {"hookpoint": str(said)})
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_directions_are_read_from_each_format(
    model: SubjectModel, tmp_path: Path, suffix: str
) -> None:
    more = {} if suffix == ".npy" else {"bias": ROWS[:, 0], "threshold": np.abs(ROWS[:, 1])}
    path = save(tmp_path / f"probes{suffix}", directions=ROWS, **more)
    assert is_basis(str(path))
    (coder,) = load_basis(str(path), model=model, hookpoints=["blocks.1.hook_resid_post"]).values()
    assert isinstance(coder, DirectionCoder)
    x = values(8, D_MODEL, seed=2)
    pre = x.double().numpy() @ ROWS.T.astype(np.float64) + more.get("bias", np.zeros(5))
    wanted = np.where((pre > 0) & (pre > more.get("threshold", np.zeros(5))), pre, 0)
    np.testing.assert_allclose(coder.encode(x), wanted, rtol=1e-4, atol=1e-5)
    assert (coder.num_latents, coder.d_in, coder.d_out) == (5, D_MODEL, D_MODEL)
    place = coder.hookpoint
    assert (place.name, place.hook_in, place.hook_out) == (
        "layers.1",
        "blocks.1.hook_out",
        "blocks.1.hook_out",
    )


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_may_say_its_place(model: SubjectModel, tmp_path: Path, suffix: str) -> None:
    path = save(
        tmp_path / f"p{suffix}", directions=ROWS, hookpoint=np.array("blocks.0.mlp.hook_out")
    )
    for asked in (None, ["layers.0.mlp"]):
        (coder,) = load_basis(str(path), model=model, hookpoints=asked).values()
        assert coder.hookpoint.hook_in == coder.hookpoint.hook_out == "blocks.0.mlp.hook_out"
    with pytest.raises(
        CoderError, match=r"says it is for layers.0.mlp, but --hookpoint is layers.1"
    ):
        load_basis(str(path), model=model, hookpoints=["layers.1"])


@pytest.mark.parametrize("dtype", [">f8", "<f2", "<i4", "<u2"])
def test_numbers_of_other_types_are_read(model: SubjectModel, tmp_path: Path, dtype: str) -> None:
    rows = np.asfortranarray(np.rint(np.abs(ROWS) * 4 + 1).astype(dtype))
    coder = load_directions(save(tmp_path / "d.npy", directions=rows), model, ["layers.0"])
    np.testing.assert_array_equal(coder.W_enc, rows.astype(np.float32))


def test_fingerprints_are_of_the_file_and_the_place(model: SubjectModel, tmp_path: Path) -> None:
    one = save(tmp_path / "one.npy", directions=ROWS)
    two = save(tmp_path / "two.npy", directions=ROWS * 2)
    found = {
        load_directions(path, model, [place]).fingerprint
        for path in (one, two)
        for place in ("layers.0", "layers.1")
    }
    assert len(found) == 4
    assert hash_file(one) not in found


def with_changes(**changes: Any) -> Callable[[Path], Path]:
    arrays = {"directions": ROWS, "hookpoint": np.array("layers.0")} | changes
    kept = {name: array for name, array in arrays.items() if array is not None}
    return lambda path: save(path / "d.npz", **kept)


def changed(row: int, value: float) -> Any:
    rows = ROWS.copy()
    rows[row] = value
    return rows


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (with_changes(directions=changed(3, np.nan)), r"directions has values.*first in row 3"),
        (with_changes(directions=changed(1, np.inf)), r"not finite.*row 1"),
        (with_changes(directions=ROWS.astype(np.float64) * 1e300), r"not finite in float32"),
        (
            with_changes(directions=changed(2, 0)),
            r"direction 2 is zero and points nowhere \(1 such",
        ),
        (with_changes(directions=ROWS[:, :7]), r"shape \(5, 7\), expected \[n, 32\]"),
        (with_changes(directions=ROWS[0]), r"shape \(32,\), expected \[n, 32\]"),
        (with_changes(directions=ROWS[:0]), r"shape \(0, 32\), expected \[n, 32\]"),
        (with_changes(bias=np.zeros(4)), r"bias has shape \(4,\).*each of the 5 directions"),
        (with_changes(threshold=np.full(5, np.nan)), r"threshold has values that are not finite"),
        (with_changes(directions=ROWS.astype(np.complex64)), r"holds complex64, expected numbers"),
        (with_changes(directions=ROWS.astype(str)), r"directions holds text"),
        (with_changes(hookpoint=None), r"does not say where.*--hookpoint"),
        (with_changes(hookpoint=np.array(3)), r"hookpoint is int64 \(\), expected one string"),
        (with_changes(hookpoint=np.array("layers.7")), r"for layers.7, but .* layers 0 to 1"),
        (with_changes(hookpoint=np.array("up there")), r"unknown hookpoint 'up there'"),
    ],
)
def test_wrong_contents_are_said(
    model: SubjectModel, tmp_path: Path, write: Write, said: str
) -> None:
    path = write(tmp_path)
    assert is_basis(str(path))
    with pytest.raises(CoderError, match=said):
        load_basis(str(path), model=model, hookpoints=None)


def test_one_place_at_a_time(model: SubjectModel, tmp_path: Path) -> None:
    path = save(tmp_path / "d.npy", directions=ROWS)
    for asked in ([], ["layers.0", "layers.1"]):
        with pytest.raises(CoderError, match=r"one place, but \d hookpoints.*one --hookpoint"):
            load_basis(str(path), model=model, hookpoints=asked)


# --- hostile files of directions


def npy(header: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file with any header."""
    text = header.encode() + b"\n"
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + body


def head(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def as_npy(data: bytes) -> Write:
    def write(folder: Path) -> Path:
        (folder / "d.npy").write_bytes(data)
        return folder / "d.npy"

    return write


def as_npz(data: bytes, name: str = "directions.npy") -> Write:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)
        return folder / "d.npz"

    return write


class Ran:
    """Leaves a mark when unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[Ran()]], dtype=object), allow_pickle=True)
    return stream.getvalue()


HOSTILE = {
    "objects": (pickled, r"object, expected numbers; Python objects are never unpickled"),
    "promised too much": (lambda: npy(head("(8000000, 32)")), r"1,024,000,000 bytes, more than"),
    "negative": (lambda: npy(head("(-1, 32)"), bytes(128)), r"damaged"),
    "twice negative": (lambda: npy(head("(-1, -32)"), bytes(128)), r"cannot be read"),
    "truncated": (lambda: npy(head("(5, 32)"), ROWS.tobytes()[:-8]), r"632 could be read|damaged"),
    "longer": (lambda: npy(head("(5, 32)"), ROWS.tobytes() + b"more"), r"damaged"),
    "no header": (lambda: b"", r"cannot be read as directions"),
    "not numpy": (lambda: b"PK\x03\x04 nothing", r"cannot be read as directions"),
    "huge header": (lambda: npy("(" * 60_000, version=(2, 0)), r"cannot be read as directions"),
    "version 3": (lambda: npy(head("(5, 32)"), version=(3, 0)), r"version \(3, 0\)"),
    "fields": (lambda: npy(head("(5,)", "[('a', '<f4')]")), r"expected numbers"),
    "code": (lambda: npy("__import__('pathlib').Path('ran').touch()"), r"cannot be read"),
    "wide dtype": (lambda: npy(head("(1, 1)", "'<U2000000000'")), r"bytes, more than|cannot be"),
}


@pytest.mark.parametrize("wrap", [as_npy, as_npz])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_run_nothing(
    model: SubjectModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrap: Callable[[bytes], Write],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = HOSTILE[name]
    path = wrap(make())(tmp_path)
    with pytest.raises(CoderError, match=said):
        load_directions(path, model, ["layers.0"])
    assert not (tmp_path / "ran").exists()


def test_a_bomb_is_not_unpacked(model: SubjectModel, tmp_path: Path) -> None:
    # 64 MB of zeros in 64 kB, and a header that promises five gigabytes of them.
    write = as_npz(npy(head("(40000000, 32)"), bytes(1 << 26)))
    assert write(tmp_path).stat().st_size < 200_000
    with pytest.raises(CoderError, match=r"5,120,000,000 bytes, more than the 268,435,456"):
        load_directions(tmp_path / "d.npz", model, ["layers.0"])


def test_broken_archives_belong_to_nobody_here(model: SubjectModel, tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz", directions=ROWS).read_bytes()
    cut, flipped = tmp_path / "cut.npz", tmp_path / "flipped.npz"
    cut.write_bytes(whole[:-30])
    flipped.write_bytes(whole[:400] + bytes([whole[400] ^ 1]) + whole[401:])
    assert not is_basis(str(cut))
    with pytest.raises(CoderError, match=r"cannot be read as directions"):
        load_directions(cut, model, ["layers.0"])
    with pytest.raises(CoderError, match=r"cannot be read as directions.*(CRC|crc)"):
        load_directions(flipped, model, ["layers.0"])


def test_wrong_safetensors_are_said(model: SubjectModel, tmp_path: Path) -> None:
    path = save(tmp_path / "d.safetensors", directions=ROWS)
    data = path.read_bytes()
    path.write_bytes(data[:-4])
    assert not is_basis(str(path))
    with pytest.raises(CoderError, match=r"d\.safetensors is damaged"):
        load_directions(path, model, ["layers.0"])
    save(path, directions=ROWS.astype(np.int32))
    with pytest.raises(CoderError, match=r"directions is torch.int32, expected floats"):
        load_directions(path, model, ["layers.0"])


def test_large_safetensors_are_said_before_they_are_read(
    model: SubjectModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directions_file, "_MAX_BYTES", 500)
    with pytest.raises(CoderError, match=r"640 bytes, more than the 500"):
        load_directions(save(tmp_path / "d.safetensors", directions=ROWS), model, ["layers.0"])


def test_other_coders_are_not_taken_for_directions(coder_folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=ROWS, W_dec=ROWS.T)
    assert not is_basis(str(tmp_path / "params.npz"))
    assert not is_basis(str(coder_folder))
    assert not is_basis(str(coder_folder / "layers.0.mlp" / "sae.safetensors"))
    assert not is_basis("owner/neurons")
    assert not is_basis(str(tmp_path / "missing.npy"))


# --- a whole run


@pytest.mark.slow
@pytest.mark.parametrize("source", ["neurons:64", "neurons:6", "directions"])
def test_a_whole_run(
    source: str,
    model: SubjectModel,
    reference: Any,
    model_folder: Path,
    text_folder: Path,
    tmp_path: Path,
) -> None:
    name, d = "layers.1.mlp.hidden", D_MLP
    rows = reference.get_input_embeddings().weight[40:60].detach()
    bias = -0.5 * rows.pow(2).sum(dim=1)
    if source == "directions":
        # Of the embeddings of some tokens; without --hookpoint, the file says its place.
        name, d = "layers.0", D_MODEL
        arrays = {"directions": rows.numpy(), "bias": bias.numpy(), "hookpoint": np.array(name)}
        path = save(tmp_path / "d.npz", **arrays)
    config = RunConfig(
        model=str(model_folder),
        coder=str(path) if source == "directions" else source,
        corpus=str(text_folder),
        hookpoints=() if source == "directions" else (name,),
        tokens=4000,
        heldout_tokens=1000,
        ctx_len=32,
    )
    run = steps.start(tmp_path / "run", config, quiet=True)
    steps.run_all(run, ["unigram", "previous_token"], 400, curves_tokens=200)

    entry = json.loads((run.out / "summary.json").read_text())["hookpoints"][name]
    assert entry["n_latents"] == (20 if source == "directions" else 2 * D_MLP)
    assert entry["n_labeled"] > 0
    ce = entry["ce"]
    if source == "neurons:64":
        assert ce["coder"] == pytest.approx(ce["base"], abs=1e-5)
    else:
        assert abs(ce["coder"] - ce["base"]) > 1e-3
    assert (run.out / "report.html").stat().st_size > 1000

    # The cache against plain transformers.
    heldout = run.tokens.heldout
    ids = torch.from_numpy(heldout.ids).long()
    if source == "directions":
        with torch.no_grad():
            x = reference(ids, output_hidden_states=True).hidden_states[1].reshape(-1, d)
        wanted = (x @ rows.T + bias).relu()
    else:
        x = hidden_of(reference, ids, 1).reshape(-1, d)
        limit = x.abs().sort(dim=1, descending=True).values[:, int(source.split(":")[1]) - 1]
        kept = x * (x.abs() >= limit[:, None])
        wanted = torch.cat([kept, -kept], dim=1).relu()
    wanted[~torch.from_numpy(heldout.valid.ravel())] = 0
    found = torch.zeros_like(wanted)
    n_fit = run.tokens.ids.size - heldout.ids.size
    for shard in run.cache.iter_shards(name, "heldout"):
        found[shard.position - n_fit, shard.latent] = torch.from_numpy(shard.act.copy())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
