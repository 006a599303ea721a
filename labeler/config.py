"""The settings of a run, kept in its folder so that every later step uses the same."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.errors import OptionError, RunError
from labeler.store import read_json, write_json

FORMAT = 1

DELPHI_CACHE = "delphi:"
"""Begins the corpus of a run whose activations were imported: a cache stands for the corpus."""

FAMILIES = {
    "n-grams": (
        "unigram",
        "bigram",
        "trigram",
        "fourgram",
        "previous_token",
    ),
    "gaps": ("gap_bigram", "gap_trigram", "token_2_back", "token_3_back"),
    "words": (
        "word",
        "previous_word",
        "suffix",
        "prefix",
        "shape",
        "digits",
        "punctuation",
        "white_space",
        "word_length",
    ),
    "structure": (
        "position",
        "sentence_position",
        "line_position",
        "first_token",
        "first_sentence",
        "inside_quotes",
        "brackets",
        "code",
        "indentation",
    ),
    "memory": ("seen_before", "induction", "sequence", "counting"),
    "topics": ("topic", "subtopic", "learned_topic", "context_class", "context_class_fast"),
    "output side": ("expected_token", "expected_class", "next_token"),
    "calls": ("calls",),
}
"""Function types fitted unless --functions says otherwise, by family."""

DEFAULT_FUNCTIONS = tuple(name for family in FAMILIES.values() for name in family)

CORRECTIONS = (
    "unigram+topic",
    "unigram+subtopic",
    "unigram+learned_topic",
    "unigram+context_class",
    "unigram+context_class_fast",
    "unigram+expected_token",
    "unigram+expected_class",
    "unigram+induction",
    "unigram+sentence_position",
    "unigram+brackets",
    "bigram+context_class",
)
"""Refinements that may correct whole tables, unless --corrections says otherwise."""


@dataclass(frozen=True)
class RunConfig:
    """What a run is made from; `cache` writes it, every other step reads it."""

    model: str
    """Hub name or local folder of the model."""
    coder: str
    """Hub name or local folder of the sparse coders."""
    corpus: str
    """"stdlib", a folder, a .txt, .jsonl or .parquet file, or a Hugging Face data set name."""
    text_column: str = "text"
    """Column of the text, for corpora with columns."""
    topic_columns: tuple[str, ...] = ()
    """Columns of the topics, coarse to fine."""
    split_column: str | None = None
    """Column that says train or heldout; None for a split by a hash of the document."""
    tokens: int = 1_000_000
    """Positions of the fit split."""
    heldout_tokens: int = 100_000
    """Positions of the held-out split."""
    ctx_len: int = 128
    """Positions per context."""
    contexts_per_document: int = 8
    """Most contexts of one document, spread evenly over it; 0 for all."""
    hookpoints: tuple[str, ...] = ()
    """Which coders to use; all that are found where empty."""
    seed: int = 0
    """Of the order of documents, the null and the bootstrap."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, low in (("tokens", 1000), ("heldout_tokens", 500), ("ctx_len", 2)):
            if getattr(self, name) < low:
                option = "--" + name.replace("_", "-")
                raise OptionError(f"{option} is {getattr(self, name)}; give at least {low}")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, with the format's number."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def load(cls, out: Path) -> "RunConfig":
        """Read the settings of a run folder.

        Raises
        ------
        RunError
            If `out` is no run folder or was made by another version.
        """
        path = out / "run.json"
        found = read_json(path, RunError, "run `labeler cache` or `labeler run` first")
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise RunError(f"{path} is not of format {FORMAT}; choose another --out")
        for name in ("topic_columns", "hookpoints"):
            found[name] = tuple(found.get(name, ()))
        try:
            return cls(**found)
        except TypeError as error:
            raise RunError(
                f"{path} has unexpected fields ({error}); choose another --out"
            ) from error

    def save(self, out: Path) -> None:
        """Write the settings, unless the folder holds a run with others.

        Raises
        ------
        RunError
            If it does; names each setting that differs.
        """
        if (out / "run.json").exists():
            old = RunConfig.load(out)
            differ = [
                f"{name} is {getattr(old, name)!r} there, {getattr(self, name)!r} now"
                for name in (field.name for field in dataclasses.fields(self))
                if getattr(old, name) != getattr(self, name)
            ]
            if differ:
                raise RunError(
                    f"{out} holds a run with other settings ({'; '.join(differ)}); choose another "
                    "--out, or delete the folder"
                )
            return
        write_json(out / "run.json", self.to_json())
