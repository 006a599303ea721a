"""A small skip transcoder per MLP for ../shared/data/tinystories-656k, a model made by others.

    .venv/bin/python benchmarks/train_tinystories.py

Writes runs/tinystories-transcoders (sparsify's layout); a quarter of an hour on two cores. The
documents that `labeler run` holds out are not trained on.
"""

import os
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, LlamaForCausalLM

from labeler.builtin.train_transcoders import TranscoderTraining, train_transcoders
from labeler.corpus import load_corpus

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LABELER_SHARED_DATA", ROOT.parent / "shared" / "data"))


def coder_folder() -> Path:
    """Where the coders are written."""
    return ROOT / "runs" / "tinystories-transcoders"


def corpus_file() -> Path:
    """The stories."""
    return SHARED / "tinystories-text" / "validation.txt"


def main() -> None:
    folder = SHARED / "tinystories-656k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    corpus = load_corpus(corpus_file())
    documents = [
        np.array(
            [tokenizer.bos_token_id, *tokenizer.encode(document.text, add_special_tokens=False)],
            dtype=np.int32,
        )
        for document in corpus.documents(0, "fit")
    ]
    print(f"{len(documents)} stories, {sum(map(len, documents)):,} tokens")
    config = TranscoderTraining(steps=1500, kl_steps=500, num_latents=1024)
    train_transcoders(model, documents, config, coder_folder(), resume=True, report=print)


if __name__ == "__main__":
    main()
