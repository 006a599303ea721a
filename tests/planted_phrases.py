"""Statements in English: how people and language models write what a latent fires on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.planted_facts import Fact, Statement
from tests.planted_wordings import FIRST, Templates, Wording

NAMES = {
    ",": "commas",
    ".": "periods",
    ":": "colons",
    ";": "semicolons",
    "(": "opening parentheses",
    ")": "closing parentheses",
    "[": "opening square brackets",
    "]": "closing square brackets",
    "{": "opening curly braces",
    "}": "closing curly braces",
    "=": "equals signs",
    "_": "underscores",
    "-": "hyphens",
    "'": "apostrophes",
    '"': "double quotes",
    "?": "question marks",
    "!": "exclamation marks",
    "/": "slashes",
    "*": "asterisks",
    "+": "plus signs",
    "#": "hash signs",
    "@": "at signs",
    "%": "percent signs",
    "&": "ampersands",
    "|": "vertical bars",
    "$": "dollar signs",
}
QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"))


@dataclass(frozen=True)
class Style:
    """How texts are quoted.

    Attributes
    ----------
    quotes : tuple of str
        What stands before and behind.
    shown : bool
        Blanks of a token stand within the quotes; else they are left out.
    bare : bool
        Words stand without quotes.
    wording : Wording
    """

    quotes: tuple[str, str] = QUOTES[0]
    shown: bool = True
    bare: bool = False
    wording: Wording = FIRST

    def choose(self, templates: Templates, rng: np.random.Generator, closed: bool) -> str:
        """One of some templates; `closed`: one that leaves no room for more than it says."""
        fine = [one for one in templates if not any(part in one for part in self.wording.open)]
        return str(rng.choice(fine if closed else templates))

    def quote(self, text: str, word: bool = False) -> str:
        """A text in quotes; in others where it has these itself."""
        if self.bare and word and text.isalpha() and len(text) > 2:
            return text
        if not self.shown:
            text = text.strip(" ") or text
        text = text.replace("\n", "\\n").replace("\t", "\\t")
        own = self.quotes
        if any(mark in text for mark in own):
            own = next((pair for pair in QUOTES if not any(mark in text for mark in pair)), own)
        return own[0] + text + own[1]


def drawn_style(rng: np.random.Generator, shown: bool, wording: Wording) -> Style:
    """Double quotes most often."""
    number = int(rng.choice(len(QUOTES), p=(0.5, 0.2, 0.2, 0.1)))
    return Style(QUOTES[number], shown, bool(rng.random() < 0.2), wording)


def written(
    said: Statement, style: Style, rng: np.random.Generator, *, closed: bool = False
) -> str:
    """A statement in English; `closed`: in words that say that there is no more to it."""
    noun = phrase(said, style, rng, closed)
    frames = style.wording.negated if said.negated else style.wording.frames
    return style.choose(frames, rng, closed).format(noun, C=noun[:1].upper() + noun[1:])


def phrase(said: Statement, style: Style, rng: np.random.Generator, closed: bool) -> str:
    """A statement as what stands after "fires on"."""
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in said.facts:
        condition = "" if fact.kind == "pair" else fact.before
        groups.setdefault((fact.kind, condition), []).append(fact)
    wording = style.wording
    nouns = []
    for (_, condition), facts in groups.items():
        noun = _group(facts, style, rng, closed, alone=len(groups) == 1)
        if condition:
            noun = str(rng.choice(wording.only_after)).format(noun, style.quote(condition))
        nouns.append(noun)
    whole = nouns[0]
    if said.negated:
        whole = " or ".join(nouns)
    elif len(nouns) == 2:
        whole = str(rng.choice(wording.union)).format(*nouns)
    elif len(nouns) > 2:
        whole = "; ".join(nouns)
    for fact in said.unless:
        whole = str(rng.choice(wording.unless)).format(whole, style.quote(fact.before))
    return whole


def _group(
    facts: Sequence[Fact], style: Style, rng: np.random.Generator, closed: bool, *, alone: bool
) -> str:
    """Facts of one kind; with a noun where they do not stand alone."""
    kind, wording = facts[0].kind, style.wording
    if kind == "class":
        return str(rng.choice(wording.marks))
    if kind == "pair":
        return _pairs(facts, style, rng, either=alone)
    if kind == "phrase":
        shown = [style.quote("".join(fact.parts).strip(" ")) for fact in facts]
        return str(rng.choice(wording.phrase)).format(listed(shown, rng))
    if kind == "mark":
        named = [NAMES[fact.text] for fact in facts if fact.text in NAMES]
        if len(named) == len(facts) and rng.random() < 0.6:
            return listed(named, rng)
    counted = wording.one if len(facts) == 1 else wording.many
    templates = wording.listing.get(kind) or counted[kind]
    nouns = tuple(one for one in templates if alone or one != "{}")
    template = style.choose(nouns, rng, closed)
    plain = template == "{}" or template.endswith((" words {}", "following {}", "after {}"))
    way = int(rng.integers(3))
    bare = "word {}" in template or "words {}" in template or "words: {}" in template
    items = [_item(fact, style, way, bare) for fact in facts]
    return template.format(listed(items, rng, either=alone and plain))


def _pairs(facts: Sequence[Fact], style: Style, rng: np.random.Generator, *, either: bool) -> str:
    """Tokens after tokens, all in the same words."""
    if rng.random() < 0.25:
        shown = [style.quote((fact.before + fact.text).strip(" ")) for fact in facts]
        noun = "the phrase" if len(facts) == 1 else "the phrases"
        return f"{noun} {listed(shown, rng)}"
    template = str(rng.choice(style.wording.pair))
    if len({fact.text for fact in facts}) == 1:
        before = listed([style.quote(fact.before) for fact in facts], rng, "or")
        return template.format(a=before, b=style.quote(facts[0].text))
    while "," in template:
        template = str(rng.choice(style.wording.pair))
    shown = [template.format(a=style.quote(one.before), b=style.quote(one.text)) for one in facts]
    return listed(shown, rng, either=either)


def _item(fact: Fact, style: Style, way: int, bare: bool) -> str:
    if fact.kind in ("suffix", "prefix"):
        dashed = f"-{fact.text}" if fact.kind == "suffix" else f"{fact.text}-"
        return (dashed, style.quote(fact.text), style.quote(dashed))[way]
    return style.quote(fact.text, word=bare and fact.kind in ("word", "after word", "next word"))


def listed(
    items: Sequence[str], rng: np.random.Generator, joiner: str = "", *, either: bool = False
) -> str:
    """Items in a row, as people join them."""
    if len(items) == 1:
        return items[0]
    word = joiner or str(rng.choice(("and", "or")))
    way = int(rng.integers(4))
    if way == 0 and either and not joiner and len(items) == 2:
        return f"either {items[0]} or {items[1]}"
    if way == 1 and not joiner:
        return ", ".join(items)
    comma = "," if way == 2 and len(items) > 2 else ""
    return f"{', '.join(items[:-1])}{comma} {word} {items[-1]}"
