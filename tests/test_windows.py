"""Token windows: derived by hand, their splits and folds, the vocabulary, and the way to disk."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.corpus import Corpus, Document, corpus_of
from labeler.errors import CacheError, CorpusError, OptionError
from labeler.tokens import HELDOUT, N_FOLDS, Tokens
from labeler.vocab import vocab_texts
from labeler.windows import load_tokens, save_tokens, tokenize_corpus


class LetterTokenizer:
    """A tokenizer with one token per letter: a = 1, b = 2, ...; BOS is 0."""

    bos_token_id: int | None = 0
    eos_token_id: int | None = 9

    def __len__(self) -> int:
        return 27

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(c) - 96 for c in text if c != " "] for text in texts]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(96 + i) if i else "<s>" for i in ids]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.convert_ids_to_tokens(ids))


def letters(**texts: str) -> Corpus:
    """Documents named by id; an id that starts with h is held out."""
    documents = [
        Document(name, text, (), "heldout" if name[0] == "h" else "fit")
        for name, text in texts.items()
    ]
    return corpus_of(documents, name="letters")


def cut(corpus: Corpus, tokenizer: Any = None, **options: Any) -> Tokens:
    settings: dict[str, Any] = {"ctx_len": 4, "fit_tokens": 100, "heldout_tokens": 100} | options
    return tokenize_corpus(corpus, tokenizer or LetterTokenizer(), **settings)


def test_windows_derived_by_hand() -> None:
    tokens = cut(letters(fit="abcdefg", heldout="ab"))
    assert tokens.ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 0]]
    assert tokens.length.tolist() == [4, 4, 3]
    assert tokens.doc.tolist() == [0, 0, 1]
    assert tokens.doc_ids == ("fit", "heldout")
    assert tokens.fold[2] == HELDOUT
    assert tokens.fold[0] == tokens.fold[1] >= 0
    assert tokens.ids.dtype == tokens.doc.dtype == tokens.length.dtype == np.int32
    assert tokens.fold.dtype == np.int8
    assert tokens.vocab[:3] == ("<s>", "a", "b")


def test_budget_ends_with_a_whole_window() -> None:
    corpus = letters(fit="abcdefghijklmnop", heldout="abcdefghijklmnop")
    tokens = cut(corpus, fit_tokens=5, heldout_tokens=4)
    assert tokens.ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_documents_beyond_the_budget_are_not_used() -> None:
    names = {f"fit{i}": "abc" for i in range(50)} | {"h": "abc"}
    tokens = cut(letters(**names), fit_tokens=12)
    assert tokens.fit.n_positions == 12
    assert len(tokens.doc_ids) == len(tokens.topics) == 4


def test_eos_stands_in_for_a_missing_bos_and_bos_can_be_left_out() -> None:
    corpus = letters(fit="abc", heldout="abc")
    without = LetterTokenizer()
    without.bos_token_id = None
    assert cut(corpus, without).ids[0].tolist() == [9, 1, 2, 3]
    without.eos_token_id = None
    assert cut(corpus, without).ids[0].tolist() == [1, 2, 3, 0]
    assert cut(corpus, bos=False).ids[0].tolist() == [1, 2, 3, 0]


def test_document_without_tokens_is_left_out() -> None:
    class Deaf(LetterTokenizer):
        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[] if text == "x" else [1] for text in texts]}

    assert cut(letters(fit="x", fit2="a", heldout="a"), Deaf()).doc_ids == ("fit2", "heldout")


@pytest.mark.parametrize(("only", "kind"), [("fit", "held-out"), ("heldout", "fit")])
def test_a_split_without_documents_is_an_error(only: str, kind: str) -> None:
    with pytest.raises(CorpusError, match=f"no {kind} documents.*--split-column"):
        cut(letters(**{only: "abc"}))


def test_token_outside_the_models_vocabulary_is_an_error() -> None:
    corpus = letters(fit="abz", heldout="ab")
    with pytest.raises(CorpusError, match="token id 26 is outside the model's vocabulary of 20"):
        cut(corpus, n_vocab=20)
    assert cut(corpus, n_vocab=30).vocab[25:] == ("y", "z", "<id 27>", "<id 28>", "<id 29>")


@pytest.mark.parametrize("option", ["ctx_len", "fit_tokens", "heldout_tokens"])
def test_sizes_too_small_are_refused(option: str) -> None:
    with pytest.raises(OptionError, match="expected at least"):
        cut(letters(fit="a", heldout="a"), **{option: 0})


def test_real_tokenizer_windows_decode_to_the_documents(
    tokens: Tokens, corpus: Corpus, model: Any
) -> None:
    texts = {document.id: document.text for document in corpus.documents()}
    for doc in range(0, len(tokens.doc_ids), 7):
        rows = np.flatnonzero(tokens.doc == doc)
        ids = np.concatenate([tokens.ids[row, : tokens.length[row]] for row in rows])
        assert ids[0] == 0
        assert model.tokenizer.decode(ids[1:].tolist()) == texts[tokens.doc_ids[doc]]
        assert tokens.topics[doc] == tuple(
            "/".join(tokens.doc_ids[doc].split("/")[:depth]) for depth in (1, 2)
        )


def test_fit_comes_first_and_folds_are_constant_in_a_document(tokens: Tokens) -> None:
    heldout = tokens.fold == HELDOUT
    assert 0 < heldout.sum() < len(heldout)
    assert not heldout[: (~heldout).sum()].any()
    assert (np.diff(tokens.doc) >= 0).all()
    for doc in range(len(tokens.doc_ids)):
        assert len(set(tokens.fold[tokens.doc == doc])) == 1
    assert set(tokens.fold[~heldout]) == set(range(N_FOLDS))


def test_folds_are_balanced() -> None:
    names = {f"f{i}": "abc" for i in range(1000)} | {"h": "abc"}
    counts = Counter(cut(letters(**names), fit_tokens=10**6).fit.fold.tolist())
    assert all(150 < counts[fold] < 250 for fold in range(N_FOLDS))


def test_the_same_seed_gives_the_same_windows(corpus: Corpus, model: Any) -> None:
    first, again, other = (
        cut(corpus, model.tokenizer, seed=seed, fit_tokens=3000) for seed in (3, 3, 4)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    folds = [
        dict(zip((t.doc_ids[d] for d in t.doc), t.fold.tolist(), strict=True))
        for t in (first, other)
    ]
    common = folds[0].keys() & folds[1].keys()
    assert common
    assert all(folds[0][doc] == folds[1][doc] for doc in common)


# --- vocabulary


def test_vocab_says_what_a_token_reads(model: Any) -> None:
    vocab = vocab_texts(model.tokenizer, len(model.tokenizer) + 2)
    assert len(vocab) == len(model.tokenizer) + 2
    assert vocab[0] == "<|endoftext|>"
    assert vocab[-1] == f"<id {len(vocab) - 1}>"
    assert all(vocab)
    ids = model.tokenizer(" the dog", add_special_tokens=False)["input_ids"]
    assert "".join(vocab[i] for i in ids) == " the dog"


def test_vocab_writes_incomplete_utf8_as_bytes(model: Any) -> None:
    pieces = model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer)))
    vocab = vocab_texts(model.tokenizer, len(pieces))
    # In GPT-2's byte map the byte 0xC3 is the character U+00C3.
    assert vocab[pieces.index("\u00c3")] == "<0xC3>"
    assert not any("\ufffd" in text for text in vocab)


def test_vocab_keeps_the_space_that_a_decoder_strips() -> None:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    mark = "\u2581"
    pieces = ["<unk>", "dog", mark + "dog", mark, mark + mark]
    backend = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace(mark, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert vocab_texts(tokenizer, 5) == ("<unk>", "dog", " dog", " ", "  ")


@pytest.mark.shared
def test_vocab_keeps_the_spaces_of_a_sentencepiece_tokenizer(shared_data: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tinystories-656k")
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    vocab = vocab_texts(tokenizer, 2048)
    for index in range(3, 2048):
        if not pieces[index].startswith("<0x"):
            assert vocab[index] == pieces[index].replace("\u2581", " ")


# --- to disk and back


def test_saved_tokens_come_back_equal(tokens: Tokens, tmp_path: Path) -> None:
    save_tokens(tokens, tmp_path)
    loaded = load_tokens(tmp_path)
    for field in dataclasses.fields(Tokens):
        old, new = getattr(tokens, field.name), getattr(loaded, field.name)
        if isinstance(old, np.ndarray):
            assert old.dtype == new.dtype
            assert (old == new).all()
        else:
            assert old == new
    assert loaded.fingerprint == tokens.fingerprint


def test_fingerprint_sees_every_field(tokens: Tokens) -> None:
    changed = {
        "ids": tokens.ids + 1,
        "length": tokens.length - 1,
        "fold": tokens.fold + 1,
        "doc": tokens.doc + 1,
        "doc_ids": tokens.doc_ids[::-1],
        "topics": tokens.topics[::-1],
        "topic_levels": ("x", "y"),
        "vocab": tokens.vocab[::-1],
    }
    prints = {dataclasses.replace(tokens, **{k: v}).fingerprint for k, v in changed.items()}
    assert len(prints | {tokens.fingerprint}) == len(changed) + 1


@pytest.mark.parametrize("file", ["tokens.npz", "tokens.json"])
@pytest.mark.parametrize("harm", ["truncate", "delete", "swap"])
def test_damaged_tokens_are_an_error(tokens: Tokens, tmp_path: Path, file: str, harm: str) -> None:
    save_tokens(tokens, tmp_path)
    path = tmp_path / file
    if harm == "truncate":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif harm == "delete":
        path.unlink()
    else:
        save_tokens(dataclasses.replace(tokens, fold=tokens.fold + 1), tmp_path / "other")
        (tmp_path / "other" / file).replace(path)
    with pytest.raises(CacheError, match="labeler cache"):
        load_tokens(tmp_path)
