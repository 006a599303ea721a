"""Small local material for the tests, made in seconds: a model, its coders, a corpus."""

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported: on models this small, threads cost more than they give, and on a busy
# machine waiting for them makes a test a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WORDS = [
    *("the", "a", "one", "small", "red", "green", "old", "cat", "dog", "bird", "house", "river"),
    *("tree", "runs", "sleeps", "sings", "jumps", "over", "under", "near", "and", "then", "but"),
    *("while", "it", "she", "he", "they", "when", "rain", "sun", "wind", "falls", "shines", "café"),
]
"""Words of the tiny corpus; café holds a character of two bytes."""

N_DOCUMENTS = 60
D_MODEL = 32
N_LAYERS = 2
MAX_CTX = 64
NUM_LATENTS = 48
K = 6


def tiny_text(seed: int, n_words: int = 120) -> str:
    """Return a text of random words in sentences."""
    rng = random.Random(seed)
    words = [rng.choice(WORDS) for _ in range(n_words)]
    return " ".join(word + "." if i % 9 == 8 else word for i, word in enumerate(words)) + "\n"


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``<subject>/<book>/<n>.txt`` of `N_DOCUMENTS` short texts."""
    root = tmp_path_factory.mktemp("corpus")
    for i in range(N_DOCUMENTS):
        path = root / f"subject{i % 3}" / f"book{i % 2}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tiny_text(i, 20 + 7 * (i % 11)), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers and d_model 32 with a byte-level BPE of 320 tokens, untrained."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    bpe = ByteLevelBPETokenizer()
    texts = [tiny_text(seed) for seed in range(20)]
    bpe.train_from_iterator(
        texts, vocab_size=320, special_tokens=["<|endoftext|>"], show_progress=False
    )
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=64,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_CTX,
        # Large enough that untrained activations differ from token to token.
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_coder(folder: Path, seed: int, **changes: Any) -> dict[str, Any]:
    """Write a random sparsify coder; returns its tensors. `changes` go into cfg.json."""
    import torch
    from safetensors.torch import save_file

    config = {
        "activation": "topk",
        "expansion_factor": 8,
        "normalize_decoder": False,
        "num_latents": NUM_LATENTS,
        "k": K,
        "multi_topk": False,
        "skip_connection": True,
        "transcode": True,
        "d_in": D_MODEL,
    } | changes
    generator = torch.Generator().manual_seed(seed)
    d, n = config["d_in"], config["num_latents"] or config["d_in"] * config["expansion_factor"]
    shapes: Mapping[str, tuple[int, ...]] = {
        "encoder.weight": (n, d),
        "encoder.bias": (n,),
        "W_dec": (n, d),
        "b_dec": (d,),
    } | ({"W_skip": (d, d)} if config["skip_connection"] else {})
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "sae.safetensors")
    return tensors


@pytest.fixture(scope="session")
def coder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random skip transcoder, TopK 6 of 48, for every MLP of the tiny model."""
    root = tmp_path_factory.mktemp("coders")
    for layer in range(N_LAYERS):
        write_coder(root / f"layers.{layer}.mlp", seed=layer)
    return root


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Any:
    """The tiny model, loaded."""
    from labeler.model import load_model

    return load_model(model_folder)


@pytest.fixture(scope="session")
def coders(coder_folder: Path, model: Any) -> Any:
    """The tiny coders, loaded."""
    from labeler.coders import load_coders

    return load_coders(coder_folder, model=model)


@pytest.fixture(scope="session")
def corpus(text_folder: Path) -> Any:
    """The tiny corpus, loaded."""
    from labeler.corpus import load_corpus

    return load_corpus(text_folder)


@pytest.fixture(scope="session")
def tokens(corpus: Any, model: Any) -> Any:
    """The whole tiny corpus in windows of 32."""
    from labeler.windows import tokenize_corpus

    return tokenize_corpus(
        corpus, model.tokenizer, ctx_len=32, fit_tokens=10**6, heldout_tokens=10**6
    )


@pytest.fixture(scope="session")
def cache(tokens: Any, model: Any, coders: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of the tiny model and coders over the tiny corpus, 16 contexts a shard."""
    from labeler.cache import build_cache

    directory = tmp_path_factory.mktemp("cache")
    return build_cache(
        tokens, model, coders, directory, contexts_per_shard=16, batch_size=6, quiet=True
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """``../shared/data``, or where LABELER_SHARED_DATA says; skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LABELER_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set LABELER_SHARED_DATA")
    return folder
