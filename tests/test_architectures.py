"""Models of many families, tiny and random: the bridge against plain transformers.

What a hook is to hold is what a forward hook of the module holds in plain transformers; which
module that is, is written down here by hand.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_text
from torch import Tensor

from labeler.coders.basis import load_basis
from labeler.errors import CoderError, ModelError
from labeler.hookpoints import parse_hookpoint
from labeler.model import SubjectModel, load_model

D, LAYER, VOCAB = 32, 1, 300

SIZES: dict[str, int | float] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width"), D),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "expand_ratio", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "rotary_dim"), 4),
    **dict.fromkeys(("head_dim", "state_size", "query_pre_attn_scalar", "v_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    "vocab_size": VOCAB,
}
"""What sizes are called in various configs."""

SITES = ("", "resid_pre", "resid_mid", "mlp.in", "mlp", "mlp.hidden", "self_attn", "self_attn.z")

MOE = ("mlp.hidden",)
PARALLEL = ("resid_mid",)
NO_ATTENTION = ("self_attn", "self_attn.z")
NO_SUBLAYERS = ("resid_mid", "mlp.in", "mlp", "mlp.hidden", *NO_ATTENTION)


@dataclass(frozen=True)
class Family:
    """A model family: its config, and where plain transformers has what the hooks hold.

    Attributes
    ----------
    kind : str
        transformers' model type.
    blocks : str
        The list of blocks in the causal model.
    reads, writes : str
        Modules of a block: the first reads what the MLP reads, the second's output is the MLP's.
    hidden, attention, z, mid : str
        Modules of a block: the MLP's down projection, attention, its output projection, and the one
        that reads the residual stream between attention and MLP.
    missing : tuple of str
        Sites that the bridge does not have.
    config : dict
        What else the config needs.
    """

    kind: str
    blocks: str = "model.layers"
    reads: str = "mlp"
    writes: str = "mlp"
    hidden: str = "mlp.down_proj"
    attention: str = "self_attn"
    z: str = "self_attn.o_proj"
    mid: str = "post_attention_layernorm"
    missing: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def gpt_like(kind: str, missing: tuple[str, ...] = (), **names: Any) -> Family:
    """A family with the names of GPT-2."""
    usual = {"hidden": "mlp.c_proj", "attention": "attn", "z": "attn.c_proj", "mid": "ln_2"}
    return Family(kind, "transformer.h", missing=missing, **{**usual, **names})


def moe(kind: str, **more: Any) -> Family:
    """A mixture of experts that is like Llama otherwise."""
    return Family(kind, missing=(*MOE, *more.pop("missing", ())), **more)


COMMON = [
    gpt_like("gpt2"),
    Family(
        "gpt_neox",
        "gpt_neox.layers",
        hidden="mlp.dense_4h_to_h",
        attention="attention",
        z="attention.dense",
        missing=PARALLEL,
    ),
    Family("llama"),
    Family("gemma2", mid="pre_feedforward_layernorm"),
    moe("mixtral"),
    Family("mamba", "backbone.layers", missing=NO_SUBLAYERS),
]
"""One of each sort: these run in the quick suite."""

OTHERS = [
    Family("afmoe", mid="pre_mlp_layernorm", missing=MOE),
    Family("apertus", mid="feedforward_layernorm"),
    Family("arcee"),
    Family("bitnet"),
    Family(
        "bloom",
        "transformer.h",
        hidden="mlp.dense_4h_to_h",
        attention="self_attention",
        z="self_attention.dense",
    ),
    gpt_like(
        "codegen", PARALLEL, hidden="mlp.fc_out", z="attn.out_proj", config={"head_dim": None}
    ),
    Family("cohere", missing=PARALLEL),
    Family("cohere2", missing=PARALLEL),
    moe("deepseek_v2", config={"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "head_dim": None}),
    moe("deepseek_v3", config={"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "head_dim": None}),
    Family("ernie4_5"),
    Family("exaone4", mid="mlp"),
    Family(
        "falcon",
        "transformer.h",
        hidden="mlp.dense_4h_to_h",
        attention="self_attention",
        z="self_attention.dense",
        missing=PARALLEL,
    ),
    moe("flex_olmo", mid="mlp"),
    Family("gemma"),
    Family("gemma3_text", mid="pre_feedforward_layernorm"),
    Family("glm"),
    Family("glm4"),
    gpt_like("gpt_bigcode"),
    gpt_like(
        "gpt_neo",
        attention="attn.attention",
        z="attn.attention.out_proj",
        config={"attention_types": [[["global", "local"], 1]]},
    ),
    moe("gpt_oss"),
    gpt_like("gptj", PARALLEL, hidden="mlp.fc_out", z="attn.out_proj"),
    Family("granite"),
    moe("granitemoe", reads="block_sparse_moe", writes="block_sparse_moe"),
    Family("hunyuan_v1_dense"),
    Family("mistral"),
    moe("minimax_m2"),
    Family(
        "mpt",
        "transformer.blocks",
        mid="norm_2",
        hidden="ffn.down_proj",
        reads="ffn",
        writes="ffn",
        attention="attn",
        z="attn.out_proj",
    ),
    Family("nemotron"),
    Family("olmo"),
    Family("olmo2", mid="mlp"),
    Family("olmo3", mid="mlp"),
    moe("olmoe"),
    gpt_like("openai-gpt", mid="mlp", missing=("",)),
    Family(
        "opt",
        "model.decoder.layers",
        mid="final_layer_norm",
        reads="fc1",
        writes="fc2",
        hidden="fc2",
        z="self_attn.out_proj",
    ),
    Family("phi", hidden="mlp.fc2", z="self_attn.dense", missing=PARALLEL),
    Family("phi3"),
    Family("qwen2"),
    moe("qwen2_moe"),
    Family("qwen3"),
    moe("qwen3_moe"),
    moe("qwen3_next", missing=NO_ATTENTION),
    Family("recurrent_gemma", missing=NO_SUBLAYERS),
    Family(
        "rwkv", "rwkv.blocks", mid="ln2", missing=("mlp.in", "mlp", "mlp.hidden", *NO_ATTENTION)
    ),
    Family("seed_oss"),
    Family("smollm3"),
    Family("stablelm"),
    Family("starcoder2", hidden="mlp.c_proj"),
    Family("vaultgemma", mid="pre_feedforward_layernorm"),
    Family("ministral3"),
    Family("jais2"),
    Family("nanochat", hidden="mlp.fc2"),
    Family("falcon_mamba", "backbone.layers", missing=NO_SUBLAYERS),
    Family("mamba2", "backbone.layers", missing=NO_SUBLAYERS, config={"num_heads": 8}),
    moe("glm4_moe", config={"first_k_dense_replace": 1}),
    moe("ernie4_5_moe"),
    Family(
        "gemma4_text", mid="pre_feedforward_layernorm", config={"hidden_size_per_layer_input": 0}
    ),
    moe(
        "jamba",
        mid="pre_ff_layernorm",
        reads="feed_forward",
        writes="feed_forward",
        missing=NO_ATTENTION,
    ),
    Family(
        "lfm2",
        mid="ffn_norm",
        reads="feed_forward",
        writes="feed_forward",
        hidden="feed_forward.w2",
        z="self_attn.out_proj",
        config={"layer_types": ["conv", "full_attention"]},
    ),
    Family("olmo_hybrid", mid="mlp"),
    moe("laguna"),
    Family("modernbert-decoder", mid="mlp_norm", hidden="mlp.Wo", attention="attn", z="attn.Wo"),
    moe("llama4_text", reads="feed_forward", writes="feed_forward"),
    Family("qwen3_5_text", missing=NO_ATTENTION),
    moe("qwen3_5_moe_text", missing=NO_ATTENTION),
    Family(
        "falcon_h1",
        mid="pre_ff_layernorm",
        reads="feed_forward",
        writes="feed_forward",
        hidden="feed_forward.down_proj",
        config={"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8},
    ),
    Family(
        "xglm",
        mid="final_layer_norm",
        reads="fc1",
        writes="fc2",
        hidden="fc2",
        z="self_attn.out_proj",
    ),
]


@dataclass
class Tiny:
    """A tiny model of a family, loaded twice."""

    family: Family
    model: SubjectModel
    plain: Any
    ids: Tensor

    def block(self, layer: int = LAYER) -> Any:
        """A block of the plain model."""
        return self.plain.get_submodule(f"{self.family.blocks}.{layer}")

    def logits(self) -> Tensor:
        """The plain model's logits."""
        with torch.inference_mode():
            logits: Tensor = self.plain(self.ids, use_cache=False).logits
        return logits


NOT_BEFORE_4 = (
    *("cohere", "cohere2", "opt", "xglm", "olmo_hybrid"),
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
)
"""Wrong in transformer-lens 3.9: docs/models.md says how."""


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [tiny_text(0)], vocab_size=VOCAB, special_tokens=["<|endoftext|>"], show_progress=False
    )
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end)


def save_tiny(family: Family, folder: Path, tokenizer: Any) -> None:
    """Save a random model of a family and a tokenizer."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    made = CONFIG_MAPPING[family.kind]
    known = set(made().to_dict()) | set(getattr(made, "attribute_map", {}).values())
    sizes = {name: size for name, size in SIZES.items() if name in known} | family.config
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(
        made(**{name: size for name, size in sizes.items() if size is not None})
    )
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(one, id=one.kind) for one in COMMON),
        *(pytest.param(one, id=one.kind, marks=pytest.mark.slow) for one in OTHERS),
    ],
)
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any
) -> Tiny:
    from transformers import AutoModelForCausalLM

    family: Family = request.param
    if family.kind in NOT_BEFORE_4 and version("transformer-lens") < "4":
        pytest.skip("wrong in transformer-lens 3.9")
    folder = tmp_path_factory.mktemp(family.kind)
    save_tiny(family, folder, tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(1, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    return Tiny(family, load_model(folder), plain, ids)


def hook(site: str, layer: int = LAYER) -> str:
    """The bridge's hook of a place."""
    name = f"layers.{layer}.{site}" if site else f"layers.{layer}"
    return parse_hookpoint(name, transcode=False).hook_in


def first(value: Any) -> Tensor:
    """A module's output without what comes with it."""
    tensor: Tensor = value[0] if isinstance(value, (tuple, list)) else value
    return tensor


def listen(tiny: Tiny, found: dict[str, Tensor]) -> list[Any]:
    """Forward hooks of plain transformers that note the value of every site."""
    family, block = tiny.family, tiny.block()

    def note_in(site: str) -> Callable[..., None]:
        def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A copy: some models add to it in place.
            found[site] = (args[0] if args else kwargs["hidden_states"]).clone()

        return note

    def note_out(site: str) -> Callable[..., None]:
        return lambda module, args, output: found.update({site: first(output).clone()})

    inputs = {"resid_pre": "", "mlp.in": family.reads, "mlp.hidden": family.hidden}
    inputs |= {"self_attn.z": family.z, "resid_mid": family.mid}
    outputs = {"": "", "mlp": family.writes, "self_attn": family.attention}
    handles = []
    for site, path in inputs.items():
        if site not in family.missing:
            module = block.get_submodule(path)
            handles.append(module.register_forward_pre_hook(note_in(site), with_kwargs=True))
    for site, path in outputs.items():
        if site not in family.missing:
            handles.append(block.get_submodule(path).register_forward_hook(note_out(site)))
    return handles


def test_logits_and_sizes_are_those_of_transformers(tiny: Tiny) -> None:
    logits = tiny.model.run(tiny.ids)
    assert logits is not None
    assert float(logits.std()) > 0.05
    torch.testing.assert_close(logits, tiny.logits(), rtol=1e-4, atol=2e-5)
    assert (tiny.model.n_layers, tiny.model.d_model, tiny.model.n_vocab) == (2, D, VOCAB)
    assert tiny.model.max_ctx >= 64


def test_later_tokens_change_nothing_before_them(tiny: Tiny) -> None:
    other = tiny.ids.clone()
    other[:, 7:] = 5
    one, two = tiny.model.run(tiny.ids), tiny.model.run(other)
    assert one is not None
    assert two is not None
    torch.testing.assert_close(one[:, :7], two[:, :7], rtol=1e-4, atol=2e-5)


def test_hooks_hold_what_plain_forward_hooks_see(tiny: Tiny) -> None:
    wanted: dict[str, Tensor] = {}
    handles = listen(tiny, wanted)
    tiny.logits()
    for handle in handles:
        handle.remove()
    found: dict[str, Tensor] = {}
    tiny.model.run(
        tiny.ids,
        {hook(site): lambda x, site=site: found.update({site: x}) for site in wanted},
    )
    assert set(wanted) == set(SITES) - set(tiny.family.missing)
    assert set(found) == set(wanted)
    for site, value in wanted.items():
        value = value.reshape(*tiny.ids.shape, -1)
        close = torch.allclose(found[site], value, rtol=1e-4, atol=2e-5)
        assert close, f"{site}: off by {float((found[site] - value).abs().max())}"


def test_a_value_put_back_changes_nothing(tiny: Tiny) -> None:
    before = tiny.model.run(tiny.ids)
    there = [hook(site) for site in SITES if site not in tiny.family.missing]
    torch.testing.assert_close(
        tiny.model.run(tiny.ids, dict.fromkeys(there, torch.clone)), before, rtol=0, atol=0
    )


@pytest.mark.parametrize("site", ["mlp", ""])
def test_zeros_are_zeros_of_the_module_in_transformers(tiny: Tiny, site: str) -> None:
    if site in tiny.family.missing:
        pytest.skip(f"{tiny.family.kind} has no {site or 'hook after a block'}")

    def zero(module: Any, args: Any, output: Any) -> Any:
        if isinstance(output, (tuple, list)):
            return type(output)((output[0] * 0, *output[1:]))
        return output * 0

    path = tiny.family.writes if site == "mlp" else ""
    block = tiny.block(0)
    handle = block.get_submodule(path).register_forward_hook(zero)
    wanted = tiny.logits()
    handle.remove()
    edited = tiny.model.run(tiny.ids, {hook(site, 0): torch.zeros_like})
    assert edited is not None
    assert not torch.allclose(wanted, tiny.logits(), atol=1e-3)
    torch.testing.assert_close(edited, wanted, rtol=1e-4, atol=2e-5)


def test_what_is_missing_is_said(tiny: Tiny) -> None:
    for site in SITES:
        if site in tiny.family.missing:
            with pytest.raises(ModelError, match=r"no hook|never ran"):
                tiny.model.width(hook(site))
        else:
            assert tiny.model.width(hook(site)) > 0
    if "mlp.hidden" in tiny.family.missing:
        with pytest.raises(CoderError, match=r"--coder neurons.*--coder residual"):
            load_basis("neurons", model=tiny.model, hookpoints=["layers.1.mlp.hidden"])
    else:
        (coder,) = load_basis(
            "neurons:3", model=tiny.model, hookpoints=["layers.1.mlp.hidden"]
        ).values()
        assert coder.num_latents == 2 * tiny.model.width(hook("mlp.hidden"))
