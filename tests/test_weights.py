"""Tokens that latents promote and read: by hand, and by the model's own modules."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from labeler.errors import LabelError, ModelError
from labeler.hookpoints import parse_hookpoint
from labeler.keytree import KeyTree
from labeler.weights import N_PROMOTED, N_READ, LatentWeights, agreement, latent_weights
from tests.synthetic import plain_tokens


def rms(x: Tensor) -> Tensor:
    """Root-mean-square norm."""
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-9).sqrt()


def layer_norm(bias: Tensor) -> Any:
    """Layer norm with weight 1 and some bias."""
    return lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]) + bias


def model_of(W_E: Tensor, W_U: Tensor, **parts: Any) -> Any:
    """What `latent_weights` needs of a model."""
    block = SimpleNamespace(ln1=lambda x: rms(x) * 3, ln2=rms)
    bridge = SimpleNamespace(W_E=W_E, W_U=W_U, ln_final=rms, blocks=[block])
    for name, part in parts.items():
        setattr(bridge, name, part)
    return SimpleNamespace(bridge=bridge, name="made-up")


def coder_of(W_dec: Tensor, W_enc: Tensor | None, name: str = "layers.0.mlp", **how: Any) -> Any:
    """What `latent_weights` needs of a coder."""
    hookpoint = parse_hookpoint(name, **how)
    coder = SimpleNamespace(W_dec=W_dec, hookpoint=hookpoint)
    if W_enc is not None:
        coder.W_enc = W_enc
    return coder


# -- by hand ---------------------------------------------------------------------------------------


def test_promoted_derived_by_hand() -> None:
    # Token i's unembedding is the i-th axis: what a direction promotes are its largest numbers.
    # Both have root mean square sqrt(3 * 36 / 12) = 3. Less the mean of the two:
    # latent 0 (6, 6, 6, 0, ...)/3 - (1, 1, 1, 1, 1, 1, 0, ...) = (1, 1, 1, -1, -1, -1, 0, ...).
    directions = torch.zeros(2, 12)
    directions[0, :3] = 6
    directions[1, 3:6] = 6
    found = latent_weights(model_of(torch.eye(12), torch.eye(12)), coder_of(directions, None))
    assert found.promoted.shape == (2, N_PROMOTED)
    assert [set(row[:3].tolist()) for row in found.promoted] == [{0, 1, 2}, {3, 4, 5}]
    assert found.promoted_score[0].tolist() == pytest.approx([1.0] * 3 + [0.0] * 6 + [-1.0])
    assert found.read is None


def test_what_all_latents_promote_is_left_out() -> None:
    # All promote token 0 the most, latent 1 also token 1.
    directions = torch.zeros(3, 20)
    directions[:, 0] = 9
    directions[1, 1] = 4
    found = latent_weights(model_of(torch.eye(20), torch.eye(20)), coder_of(directions, None))
    assert found.promoted[1, 0] == 1


def test_the_bias_of_the_final_norm_promotes_nothing() -> None:
    directions = torch.zeros(2, 12)
    directions[0, 4], directions[1, 5] = 1, 1
    bias = torch.zeros(12)
    bias[7] = 100.0
    model = model_of(torch.eye(12), torch.eye(12), ln_final=layer_norm(bias))
    found = latent_weights(model, coder_of(directions, None))
    assert found.promoted[:, 0].tolist() == [4, 5]
    assert abs(found.promoted_score).max() < 10


def test_tokens_with_a_huge_unembedding_are_never_promoted() -> None:
    # 99 tokens of length 1, one of 50: it would be promoted by all with a positive first number.
    W_U = torch.eye(100)
    W_U[0, 0] = 50
    directions = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    found = latent_weights(model_of(torch.eye(100), W_U), coder_of(directions, None))
    assert 0 not in found.promoted
    assert set(np.unique(found.promoted)) <= set(range(1, 100))


def test_read_derived_by_hand() -> None:
    # Normed, all embeddings are equally long, and none is closer to an encoder row than itself.
    W_E = (
        torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
        * torch.arange(1, 61)[:, None]
    )
    encoder = rms(W_E)[[7, 30, 59]]
    model = model_of(W_E, torch.randn(8, 60))
    found = latent_weights(model, coder_of(torch.randn(3, 8), encoder))
    assert found.read is not None
    assert found.read_score is not None
    assert found.read.shape == (3, N_READ)
    assert found.read[:, 0].tolist() == [7, 30, 59]
    # Root mean square 1 in 8 dimensions: squared length 8.
    assert found.read_score[:, 0].tolist() == pytest.approx([8, 8, 8], rel=1e-5)
    # Before the attention it is another norm, here three times as large.
    attention = latent_weights(model, coder_of(torch.randn(3, 8), encoder, "layers.0.self_attn"))
    assert attention.read_score is not None
    assert attention.read_score[:, 0].tolist() == pytest.approx([24, 24, 24], rel=1e-5)
    # In the residual stream there is none: long embeddings are read most.
    residual = latent_weights(
        model, coder_of(torch.randn(3, 8), encoder, "layers.0", transcode=False)
    )
    assert residual.read is not None
    best = (encoder @ W_E.T).argmax(dim=1)
    assert residual.read[:, 0].tolist() == best.tolist()
    # The output of a module is not made of embeddings.
    output = latent_weights(
        model, coder_of(torch.randn(3, 8), encoder, "layers.0.mlp", transcode=False)
    )
    assert output.read is None
    assert output.read_score is None


def test_a_model_without_an_unembedding_says_so() -> None:
    model = model_of(torch.eye(4), torch.eye(4))
    del model.bridge.W_U
    with pytest.raises(ModelError, match=r"made-up has no W_U .*cannot be told from the weights"):
        latent_weights(model, coder_of(torch.eye(4), None))
    model = model_of(torch.eye(4), torch.eye(4))
    model.bridge.blocks = []
    with pytest.raises(ModelError, match=r"made-up has no blocks\.0\.ln2"):
        latent_weights(model, coder_of(torch.eye(4), torch.eye(4)))


# -- against the model's own modules ---------------------------------------------------------------


def test_against_the_modules_of_the_tiny_model(model: Any, coders: Any, model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model_folder)
    for layer, coder in enumerate(coders.values()):
        found = latent_weights(model, coder)
        with torch.inference_mode():
            normed = plain.model.norm(coder.W_dec)
            logits = plain.lm_head(normed - normed.mean(dim=0))
            reads = plain.model.layers[layer].post_attention_layernorm(
                plain.model.embed_tokens.weight
            )
            scores = coder.W_enc @ reads.T
            length = plain.lm_head.weight.norm(dim=1)
        assert float((length - length.mean()).max()) < 4 * float(length.std())
        for best, score, wanted in (
            (found.promoted, found.promoted_score, logits),
            (found.read, found.read_score, scores),
        ):
            assert best is not None
            top = wanted.topk(best.shape[1], dim=1)
            assert np.allclose(score, top.values, atol=1e-4)
            assert (best == top.indices.numpy()).mean() > 0.99


def test_round_trip(model: Any, coders: Any, tmp_path: Path) -> None:
    found = latent_weights(model, coders["layers.0.mlp"])
    found.save(tmp_path)
    again = LatentWeights.load(tmp_path)
    for name in ("promoted", "promoted_score", "read", "read_score"):
        one, other = getattr(found, name), getattr(again, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    without = LatentWeights(found.promoted, found.promoted_score, None, None)
    without.save(tmp_path)
    assert LatentWeights.load(tmp_path).read is None


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"weights\.parquet.*labeler fit"):
        LatentWeights.load(tmp_path)
    (tmp_path / "weights.parquet").write_bytes(b"no table")
    with pytest.raises(LabelError, match=r"weights\.parquet"):
        LatentWeights.load(tmp_path)


# -- agreement -------------------------------------------------------------------------------------


def labels_of(entries: list[tuple[int, str, int, int, float]], n_latents: int) -> Any:
    """Labels with entries (budget, level, latent, node, weight) over the tokens 0, 2, 4, 6, 8."""
    tree, _ = KeyTree.build(plain_tokens([[0, 2, 4], [6, 8, 4]]), ["bigram"])
    budget, level, latent, node, weight = zip(*entries, strict=True)
    frame = pl.DataFrame(
        {
            "budget": budget,
            "level": level,
            "latent": latent,
            "node": node,
            "weight": weight,
            "value": [one + 0.5 for one in weight],
        }
    )
    return SimpleNamespace(tree=tree, entries=frame, n_latents=n_latents)


def weights_of(read: list[list[int]]) -> LatentWeights:
    """Weights that read these tokens."""
    ids = np.array(read, dtype=np.int32)
    return LatentWeights(ids, ids.astype(np.float32), ids, ids.astype(np.float32))


def test_agreement_derived_by_hand() -> None:
    entries = [
        # Latent 0 fires on tokens 0, 4 and 8 (nodes 0, 2 and 4), not on 6; it reads 4 and 8.
        (100, "unigram", 0, 0, 1.0),
        (100, "unigram", 0, 2, 2.0),
        (100, "unigram", 0, 4, 3.0),
        (100, "unigram", 0, 3, -1.0),
        # Another budget and another level do not count.
        (16, "unigram", 0, 1, 9.0),
        (100, "bigram", 1, 0, 9.0),
        # Latent 2 reads none of its tokens.
        (100, "unigram", 2, 1, 1.0),
    ]
    labels = labels_of(entries, 3)
    weights = weights_of([[4, 8, 1], [0, 2, 4], [0, 4, 6]])
    found = agreement(weights, labels)
    assert found.dtype == np.float32
    assert found.tolist()[::2] == pytest.approx([2 / 3, 0])
    assert np.isnan(found[1])
    # Only as many tokens as the weights have: the two strongest of latent 0 are 8 and 4.
    assert agreement(weights_of([[4, 8], [0, 2], [2, 4]]), labels)[[0, 2]].tolist() == [1, 1]


def test_agreement_where_nothing_is_read() -> None:
    labels = labels_of([(100, "unigram", 0, 0, 1.0)], 2)
    ids = np.zeros((2, 3), dtype=np.int32)
    assert np.isnan(agreement(LatentWeights(ids, ids.astype(np.float32), None, None), labels)).all()
