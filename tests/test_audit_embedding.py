"""Sentence embeddings: real small models, saved and loaded, and folders that want code run."""

import json
import math
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.errors import ModelError
from labeler.eval.audit.embedding import MAX_CHARS, EmbeddingScorer, check_embedding_folder

pytestmark = pytest.mark.slow
"""The library alone takes seconds to import."""

COOKING = [
    "stir the butter and the sugar in a bowl and bake the cake in the oven",
    "bake the bread in a hot oven with flour, salt and butter",
    "chop the onion, fry it in butter and add salt to the soup",
    "mix flour and sugar in the bowl and add an egg to the cake",
    "the soup needs salt, an onion and a hot oven",
]
FINANCE = [
    "the bank raised interest rates and the shares fell on the market",
    "shares of the company fell after it reported lower profit",
    "investors sold shares while the bank kept its interest rate",
    "the market rose as the company reported a profit to investors",
    "a bank lends money at an interest rate to the company",
]


def save_lsa(folder: Path) -> Path:
    """A model whose words have LSA vectors of ten sentences: a text is the mean of its words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tfidf = TfidfVectorizer(sublinear_tf=True)
    counts = tfidf.fit_transform(COOKING + FINANCE)
    svd = TruncatedSVD(n_components=4, random_state=0).fit(counts)
    words = tfidf.get_feature_names_out()
    rows = (svd.components_ * svd.singular_values_[:, None]).T * tfidf.idf_[:, None]
    table = np.concatenate([np.zeros((1, 4)), rows]).astype(np.float32)
    numbers = {"[UNK]": 0} | {str(word): index for index, word in enumerate(words, start=1)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=table)])
    model.save(str(folder))
    return folder


@pytest.fixture(scope="module")
def lsa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lsa(tmp_path_factory.mktemp("lsa"))


@pytest.fixture(scope="module")
def scorer(lsa: Path) -> EmbeddingScorer:
    return EmbeddingScorer(lsa)


@pytest.fixture
def folder(lsa: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(lsa, tmp_path / "copy"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of one layer with mean pooling, as most published models are laid out."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = tmp_path_factory.mktemp("bert")
    words = sorted({word.strip(",") for text in COOKING + FINANCE for word in text.split()})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (root / "vocab.txt").write_text("\n".join(vocab))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(root / "plain")
    BertTokenizerFast(vocab_file=str(root / "vocab.txt")).save_pretrained(root / "plain")
    transformer = Transformer(str(root / "plain"), max_seq_length=32)
    SentenceTransformer(modules=[transformer, Pooling(16)]).save(str(root / "saved"))
    return root / "saved"


def test_words_of_finance_are_nearer_to_finance(scorer: EmbeddingScorer) -> None:
    texts = ["shares, investors, profit", "recipes: flour, sugar, oven"]
    contexts = ["the company reported its profit", "add the sugar and bake"]
    near = scorer.scores(texts, contexts)
    assert near.shape == (2, 2)
    assert near.dtype == np.float32
    assert near[0, 0] > near[0, 1] + 0.5
    assert near[1, 1] > near[1, 0] + 0.5
    # Every sentence of a subject is nearer to the words of its own.
    every = scorer.scores(texts, FINANCE + COOKING)
    assert every[0, :5].min() > every[0, 5:].max()
    assert every[1, 5:].min() > every[1, :5].max()


def test_cosine_by_hand(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    table = load_file(folder / "model.safetensors")["embedding.weight"]
    numbers = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    table[:] = 0
    table[numbers["bank"]] = [3, 4, 0, 0]
    table[numbers["cake"]] = [1, 0, 0, 0]
    table[numbers["salt"]] = [0, -2, 0, 0]
    save_file({"embedding.weight": table}, folder / "model.safetensors")
    found = EmbeddingScorer(folder).scores(["Bank"], ["cake", "salt", "cake cake bank", "unknown"])
    # The third is (1 + 1 + 3, 4) / 3.
    wanted = [3 / 5, -4 / 5, (3 * 5 + 4 * 4) / 5 / math.hypot(5, 4), 0.0]
    np.testing.assert_allclose(found, [wanted], atol=1e-6)


def test_agrees_with_the_library(lsa: Path, scorer: EmbeddingScorer) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import cos_sim

    model = SentenceTransformer(str(lsa), device="cpu")
    wanted = cos_sim(model.encode(FINANCE), model.encode(COOKING)).numpy()
    np.testing.assert_allclose(scorer.scores(FINANCE, COOKING), wanted, atol=1e-5)


def test_a_transformer_with_pooling(bert: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import cos_sim

    model = SentenceTransformer(str(bert), device="cpu")
    wanted = cos_sim(model.encode(COOKING[:2]), model.encode(FINANCE)).numpy()
    np.testing.assert_allclose(
        EmbeddingScorer(bert).scores(COOKING[:2], FINANCE), wanted, atol=1e-5
    )


def test_a_text_is_embedded_once(scorer: EmbeddingScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode = scorer._model.encode

    def counting(texts: Sequence[str], **options: Any) -> Any:
        asked.extend(texts)
        return encode(texts, **options)

    monkeypatch.setattr(scorer._model, "encode", counting)
    first = scorer.scores(["once salt"], ["twice salt", "twice salt", "thrice salt"])
    assert sorted(asked) == ["once salt", "thrice salt", "twice salt"]
    assert first[0, 0] == first[0, 1]
    np.testing.assert_array_equal(scorer.scores(["once salt"], ["twice salt"]), first[:, :1])
    assert len(asked) == 3


def test_long_and_empty_texts(scorer: EmbeddingScorer) -> None:
    long = "salt " * 300_000
    np.testing.assert_allclose(scorer.scores([long], ["salt", ""]), [[1.0, 0.0]], atol=1e-6)
    assert max(map(len, scorer._known)) <= MAX_CHARS


def test_no_connection_is_tried(lsa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert EmbeddingScorer(lsa).scores(["salt"], ["salt"]) == pytest.approx(1.0)


def modules(folder: Path, **changes: Any) -> None:
    path = folder / "modules.json"
    (one,) = json.loads(path.read_text())
    path.write_text(json.dumps([one | changes]))


def spoil_config(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps(values))


def pickled(folder: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-16])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda at: (at / "modules.json").unlink(), r"modules\.json does not exist; save the"),
        (lambda at: (at / "modules.json").write_text("{"), "modules.json: cannot be read"),
        (lambda at: (at / "modules.json").write_text("[]"), "lists no modules"),
        (lambda at: (at / "modules.json").write_text("[3]"), "wants the class 'None'"),
        (lambda at: modules(at, type="os.system"), "wants the class 'os.system' to be run"),
        (lambda at: modules(at, type="modeling.Mine"), "'modeling.Mine'"),
        (
            lambda at: modules(at, type="sentence_transformers.util.misc.import_from_string"),
            "import_from_string",
        ),
        (lambda at: modules(at, path="../elsewhere"), "places a module at '../elsewhere'"),
        (lambda at: modules(at, path="/etc"), "outside"),
        (lambda at: spoil_config(at, auto_map={"AutoModel": "m.M"}), "auto_map, Python code"),
        (lambda at: spoil_config(at, activation_function="os.abort"), "is 'os.abort'"),
        (pickled, r"lacks model.safetensors \(it has pytorch_model.bin: pickles can run code"),
        (truncated, "model.safetensors is damaged: it is"),
        (lambda at: (at / "tokenizer.json").write_text("{}"), "cannot load the embedding model"),
        (lambda at: (at / "tokenizer.json").unlink(), "cannot load the embedding model"),
    ],
)
def test_folders_that_are_refused(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        EmbeddingScorer(folder)
    assert str(folder) in str(caught.value)


def test_code_in_the_folder_is_never_run(folder: Path) -> None:
    marker = folder / "ran"
    (folder / "modeling.py").write_text(f"open({str(marker)!r}, 'w')\nclass Mine: ...\n")
    modules(folder, type="modeling.Mine")
    with pytest.raises(ModelError, match="to be run"):
        EmbeddingScorer(folder)
    assert not marker.exists()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing does not exist; give a local"):
        check_embedding_folder(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="file is a file"):
        check_embedding_folder(tmp_path / "file")


def test_weights_of_nan(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    table = load_file(folder / "model.safetensors")["embedding.weight"]
    save_file({"embedding.weight": table * np.float32("nan")}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="yields NaN or infinity"):
        EmbeddingScorer(folder).scores(["salt"], ["salt"])


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    table = load_file(folder / "model.safetensors")["embedding.weight"]
    save_file({"embedding.weight": table[:3].copy()}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="may not belong together"):
        EmbeddingScorer(folder).scores(["the shares of the market"], ["soup"])


def test_without_the_library(lsa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'labeler\[embed\]'"):
        EmbeddingScorer(lsa)


def test_word_vectors_become_a_model(tmp_path: Path) -> None:
    import subprocess

    words = {"the": [1, 1, 1], "bank": [1, 0, 0], "shares": [0.9, 0.1, 0], "cake": [0, 0, 1]}
    source = tmp_path / "vectors.txt"
    lines = [" ".join([word, *map(str, row)]) for word, row in words.items()]
    source.write_text("\n".join(lines) + "\n")
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "make_embedding.py"
    made = subprocess.run(
        [sys.executable, str(script), str(source), str(tmp_path / "model"), "4"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "4 words of 3 dimensions" in made.stdout
    near = EmbeddingScorer(tmp_path / "model").scores(["the bank"], ["The shares", "the cake"])
    assert near[0, 0] > near[0, 1]
