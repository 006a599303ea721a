"""Tiny untrained models of several architectures."""

from pathlib import Path
from typing import Any

HEADS, D_HEAD, D_MODEL, D_MLP, VOCAB = 2, 12, 16, 24, 40


def build(kind: str, folder: Path) -> Path:
    """A tiny model of one architecture with random norms, so that gain and bias matter."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="w0", eos_token="w0", pad_token="w0"
    ).save_pretrained(folder)
    shared = {"vocab_size": VOCAB, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0}
    usual = shared | {
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
    }
    config: Any
    if kind == "gpt2":
        config = transformers.GPT2Config(
            **shared, n_embd=D_MODEL, n_inner=D_MLP, n_layer=2, n_head=HEADS, n_positions=16
        )
    elif kind == "neox":
        config = transformers.GPTNeoXConfig(**usual)
    else:
        config = {"llama": transformers.LlamaConfig, "gemma2": transformers.Gemma2Config}[kind](
            **usual, num_key_value_heads=1, head_dim=D_HEAD
        )
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    network.save_pretrained(folder)
    return folder
