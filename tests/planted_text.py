"""A text on which every predefined function type has keys: real code, and prose made up here.

The code is the standard library's. The prose gives what code lacks: sentences, quoted speech,
dates, lists of months, and three levels of topics with several documents each.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import labeler
from labeler.corpus import Document, corpus_of, load_corpus
from labeler.functions.sequence import KINDS
from labeler.keytree import KeyTree
from labeler.level import Nodes
from labeler.tokens import Tokens
from labeler.windows import tokenize_corpus

LEVELS = ("subject", "book", "chapter")
CTX_LEN = 128

_CHAPTERS = {
    ("nature", "water", "rivers"): "river bank ferry otter flood reed bridge trout",
    ("nature", "water", "oceans"): "tide harbour whale coral sailor anchor wave island",
    ("nature", "land", "mountains"): "glacier summit goat ridge avalanche valley shepherd pine",
    ("nature", "land", "deserts"): "dune camel oasis cactus caravan scorpion drought lizard",
    ("society", "trade", "markets"): "merchant price stall barrel bargain cloth basket coin",
    ("society", "trade", "banks"): "loan ledger clerk interest vault debt account treasury",
    ("society", "law", "courts"): "judge verdict witness jury appeal sentence oath lawyer",
    ("society", "law", "parliaments"): "senator vote motion speech treaty tax debate minister",
    ("science", "physics", "optics"): "lens prism mirror beam telescope shadow spectrum lamp",
    ("science", "physics", "heat"): "furnace steam boiler flame kettle engine piston coal",
    ("science", "life", "cells"): "enzyme membrane protein nucleus tissue virus gene sample",
    ("science", "life", "plants"): "seed root petal pollen orchard leaf fern harvest",
}
_ADJECTIVES = [
    "old",
    "small",
    "bright",
    "heavy",
    "quiet",
    "narrow",
    "famous",
    "broken",
    "distant",
    "gentle",
]
_VERBS = [
    "crossed",
    "carried",
    "found",
    "described",
    "followed",
    "measured",
    "lost",
    "remembered",
    "reached",
    "left",
]
_PLACES = ["London", "Vienna", "Cairo", "Lima", "Oslo", "Kyoto"]
_PER_CHAPTER = 5
_SENTENCES = 45


@dataclass(frozen=True, eq=False)
class Text:
    """Both splits of a text, and the nodes of their positions.

    Attributes
    ----------
    fit, heldout : Tokens
    tree : KeyTree
    nodes, held : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
        Of the fit and of the held-out split, by level.
    """

    fit: Tokens
    heldout: Tokens
    tree: KeyTree
    nodes: Mapping[str, Nodes]
    held: Mapping[str, Nodes]

    @classmethod
    def make(cls, tokens: Tokens, names: list[str]) -> "Text":
        """Number the keys of the given function types and refinements."""
        tree, nodes = KeyTree.build(tokens.fit, names)
        return cls(tokens.fit, tokens.heldout, tree, nodes, tree.find(tokens.heldout))


@cache
def mixed_tokens(n_code: int, prose: int = _PER_CHAPTER) -> Tokens:
    """Windows of `n_code` documents of code and `prose` documents of each chapter of prose."""
    from transformers import AutoTokenizer

    code = list(islice(load_corpus("stdlib").documents(), n_code))
    documents = [Document(d.id, d.text, (*d.topics, _third(d.id)), d.split) for d in code] + list(
        _prose(prose)
    )
    folder = Path(labeler.__file__).parent / "builtin" / "model"
    return tokenize_corpus(
        corpus_of(documents, name="planted", topic_levels=LEVELS),
        AutoTokenizer.from_pretrained(folder),
        ctx_len=CTX_LEN,
        fit_tokens=10**9,
        heldout_tokens=10**9,
        contexts_per_document=8,
    )


def _third(path: str) -> str:
    """The third level of a path, "" where it has none."""
    parts = path.removesuffix(".py").split("/")
    return parts[2] if len(parts) > 2 else ""


def _prose(per_chapter: int) -> Iterator[Document]:
    for (subject, book, chapter), nouns in _CHAPTERS.items():
        for number in range(per_chapter):
            rng = random.Random(f"{chapter} {number}")
            lines = [_sentence(rng, nouns.split()) for _ in range(_SENTENCES)]
            text = "".join(line + rng.choice((" ", " ", " ", "\n", "\n\n")) for line in lines)
            # One in five of a chapter is held out.
            split = "heldout" if number % 5 == 4 else "fit"
            topics = (subject, f"{subject} {book}", f"{subject} {book} {chapter}")
            yield Document(f"{chapter}/{number}", text, topics, split)


def _sentence(rng: random.Random, nouns: list[str]) -> str:
    one, two, three = rng.sample(nouns, 3)
    adjective, verb, place = rng.choice(_ADJECTIVES), rng.choice(_VERBS), rng.choice(_PLACES)
    plain = f"the {adjective} {one} {verb} the {two}"
    match rng.randrange(12):
        case 0:
            return f'"Where is the {one}?" asked the {two}. "It {verb} the {three} in {place}."'
        case 1:
            return f"{_members(rng)}, the {one} {verb} a {two}."
        case 2:
            year, share = rng.randint(1700, 2020), rng.randint(1, 99) / 10
            return f"In {year}, {share} of every {rng.randint(10, 500)} were a {adjective} {one}."
        case 3:
            return f"Near {place} ({plain}) they {verb} another {three}."
        case 4:
            return f"Why had {plain}, and who {rng.choice(_VERBS)} the {three}?"
        case 5:
            return (
                f"There were {_numbers(rng)} of them: a {one}, a {two} and a {adjective} {three}."
            )
        case 6:
            return f"The {one} [see {place}, {rng.randint(2, 90)} (or {two})] {verb} it!"
        case _:
            rest = f", while the {three} {rng.choice(_VERBS)} {place}" if rng.random() < 0.5 else ""
            return f"{plain.capitalize()}{rest}."


def _members(rng: random.Random) -> str:
    """Two to four neighbours of a sequence: months or weekdays, most often."""
    _, members, _ = KINDS[rng.choice((0, 0, 0, 2, 2, 4, 6))]
    first, n = rng.randrange(min(len(members) - 4, 4)), rng.randint(2, 4)
    return "In " + ", ".join(members[first : first + n])


def _numbers(rng: random.Random) -> str:
    first = rng.randint(1, 6)
    return f"{first}, {first + 1} or {first + 2}"
