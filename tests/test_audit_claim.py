import re
import time

import numpy as np
import pytest

from labeler.eval.audit.claim import Atom, Claim, Term, read_claim
from labeler.eval.audit.cues import cue_words
from labeler.eval.audit.lexemes import lexemes
from labeler.eval.audit.lexicon import CLASSES, class_pattern
from labeler.eval.audit.names import class_names
from labeler.eval.audit.stored import copies, failure, is_copied, normalised
from labeler.explanations import Explanation

WHOLE = {
    '"b" with "a" right before it': '"b" after "a"',
    'the token "b", strictly when "a" comes just before': '"b" after "a"',
    'tokens with "a" and "b" right before them': 'any token after "a" or "b"',
    'words with "foo" at the end': 'words that end in "foo"',
    'words with "foo" or "bar" at the start': (
        'words that begin with "foo", words that begin with "bar"'
    ),
    'the token "b" without "a" right before': '"b", except any token after "a"',
    'the first token after "a"': 'any token after "a"',
    '"b" (preceding token: "a")': '"b" after "a"',
    'the token "a", along with words ending in "b"': '"a", words that end in "b"',
    'Skips the token "a" and lights up on all the rest.': 'any token, except "a"',
    'fires on "." when it follows "t", "a" right after ":" and "as" before "x"': (
        '"." after "t", "a" after ":", "as" before "x"'
    ),
    'the token "_" right after "t", the token "x" right after ")"': '"_" after "t", "x" after ")"',
    'occurrences of "e" and the position right after "ure".': '"e", any token after "ure"',
    'the "er" token, as well as tokens that directly follow the word "av"': (
        '"er", any token after "av"'
    ),
    'the token "." right after "1", as well as the "d" token': '"." after "1", "d"',
    'either "." after "sys" or instances of the token "x"': '"." after "sys", "x"',
    'fires after the word "a" or the word "b"': 'any token after "a" or "b"',
    'words that follow "a" and words that end in "ule"': (
        'any token after "a", words that end in "ule"'
    ),
    'triggers on "days", when the token before it is "30"': '"days" after "30"',
    '"ab" or "people" but only when preceded by "b"': '"ab" after "b", "people" after "b"',
    'Strong activation on "pass", across many different contexts.': '"pass"',
    'a few specific tokens: "b", "id"': '"b", "id"',
    'Fires everywhere but on "b"': 'any token, except "b"',
    'ignores words that begin with "max" and fires on everything else': (
        'any token, except words that begin with "max"'
    ),
    'Does not fire on whatever comes right after "a".': 'any token, except any token after "a"',
    'the words "he" and "she"': '"he", "she"',
    "‘she’ and “he” or «it»": '"she", "he", "it"',
    "fires on the word 'don't' and 'it's'": '"don\'t", "it\'s"',
    "months, but not May": 'months, except "May"',
    "months such as January and May": 'months, "January", "May"',
    "capitalized words, especially pronouns": "capitalised words",
    "and": '"and"',
    "the, a, an": '"the", "a", "an"',
    "-ing": 'words that end in "ing"',
    "3": '"3"',
    "(": '"("',
    '","': '","',
    "articles and prepositions": "articles, prepositions",
    "newlines": "newlines",
    "Commas and periods.": "commas, periods",
    '"3", "Three", "03"': '"3", "Three", "03"',
    '"B"/"CR" before numbers': '"B" before numbers, "CR" before numbers',
    '"2" or "3" (or text versions)': '"2", "3"',
    'tokens after "@" and before numbers': 'any token after "@" before numbers',
    "words ending in -ing": 'words that end in "ing"',
    'the suffix "-ed"': 'words that end in "ed"',
    'words starting with "un" or "re"': 'words that begin with "un", words that begin with "re"',
    "tokens beginning with the letter s": 'words that begin with "s"',
    "the prefix un-": 'words that begin with "un"',
    'tokens containing "x"': 'words that contain "x"',
    'any token after "of"': 'any token after "of"',
    'fires after "the", "a", or "an"': 'any token after "the" or "a" or "an"',
    'previous token is "the"': 'any token after "the"',
    '"x" followed by "y"': '"x" before "y"',
    '"x" before "y"': '"x" before "y"',
    '"x" after "y"': '"x" after "y"',
    '"x" preceded by "y"': '"x" after "y"',
    'the word "the" after a comma': '"the" after commas',
    'anything but "the"': 'any token, except "the"',
    'any token except "the" and "a"': 'any token, except "the", "a"',
    'does not fire on "the"': 'any token, except "the"',
    'never fires except on "the"': '"the"',
    'no token but "the"': '"the"',
    "anything except commas": "any token, except commas",
    'not only "a" but also "b"': '"a", "b"',
    "the word 'foo', unless it comes after 'baz'": '"foo", except any token after "baz"',
    "tokens time and year": '"time", "year"',
    "the word guard": '"guard"',
    "the words that and which": '"that", "which"',
    "the digit 3": '"3"',
    'the pronoun "she"': '"she"',
    "uses of the pronoun I": '"I"',
    "tokens in all caps": "words in capitals",
    "the beginning of a sentence": "first words of a sentence",
    "newline characters after a colon": "newlines after colons",
    "This neuron fires on question marks.": "question marks",
    "Explanation: the token 'Ġthe'": '" the"',
    "Fires on ` the`, ` a` and ` an`.": '" the", " a", " an"',
    "the phrase 'in order to'": '"in order to"',
    "fires on ` def` after a newline; stronger with `x`; unless ` class`": (
        '" def" after newlines, except " class"'
    ),
    "fires on ` def` _ `():`, anything after `self`, ` x`": (
        '"():" 2 tokens after " def", any token after "self", " x"'
    ),
}

PARTIAL = {
    'plural professions ("workers")': '"workers"',
    'months (e.g. "January")': '"January"',
    "guard": '"guard"',
    "time, year": '"time", "year"',
    'the word "time" in financial text': '"time"',
    "Technology sectors, including stocks, ETFs, and company performance": (
        '"stocks", "ETFs", "company performance"'
    ),
    'text about finance such as "stock"': '"stock"',
    'sentences containing "stock"': '"stock"',
    'singular subjects preceded by "The"': 'any token after "The"',
    '"3"/"iii" and multiples of 3': '"3", "iii"',
    '"CR". promotes numbers': '"CR"',
    '"the", "a", etc.': '"the", "a"',
    '"the", "a", and': '"the", "a"',
    "fires on ` a`, ` b` and 89 more": '" a", " b"',
    "fires on ` **`, where `kw` is expected next, `rand`": '" **", "rand"',
    "fires on layers.0.mlp 264 fires (`(`, `join(`, ...), `(self`": '"(self"',
    "numbers between 1 and 9": "numbers",
}

NOTHING = (
    'The token "a" will never set this latent off.',
    'hardly ever on "a"',
    "nothing to do with 'a'",
    "",
    "sadness and loss",
    "plural nouns",
    "the dogs' owners",
    "promotes newlines",
    'promotes "4"',
    "financial articles",
    "number theory",
    "words related to sadness",
    "tokens after plural nouns",
    "words",
    "predicts unmarked verb forms",
    "3rd person singular (pro)nouns, promotes singular verbs",
)


@pytest.mark.parametrize(("text", "wanted"), WHOLE.items())
def test_words_that_say_all(text: str, wanted: str) -> None:
    claim = read_claim(text)
    assert str(claim) == wanted
    assert not claim.partial


@pytest.mark.parametrize(("text", "wanted"), PARTIAL.items())
def test_words_that_say_a_part(text: str, wanted: str) -> None:
    claim = read_claim(text)
    assert claim.partial
    assert str(claim) == f"{wanted} (and what cannot be read)"


@pytest.mark.parametrize("text", NOTHING)
def test_prose_makes_no_claim(text: str) -> None:
    assert not read_claim(text)


def test_what_a_claim_is_of() -> None:
    assert read_claim('text about finance such as "stock"').contexts
    assert read_claim('promotes "4"').outputs
    assert not read_claim('"stock"').contexts


def test_escapes_are_read_both_ways_in_backquotes_only() -> None:
    (term,) = read_claim(r"the token `\n`").terms
    assert term.atom == Atom("text", "\n", raw="\\n")
    (term,) = read_claim(r'the token "\n"').terms
    assert term.atom == Atom("text", "\n")
    assert read_claim("the token `↵`").terms == (Term(Atom("text", "\n")),)


def test_a_claim_shows_eight_terms() -> None:
    terms = tuple(Term(Atom("text", str(n))) for n in range(10))
    assert str(Claim(terms)).endswith('"7" and 2 more')


def test_unclosed_quotes_and_brackets_are_seen() -> None:
    assert lexemes('the "a" and "b')[1]
    assert lexemes('the "a" (or b')[1]
    assert not lexemes('brackets such as "("')[1]


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_a_name_that_is_read_as_it(name: str) -> None:
    assert read_claim(f"fires on {name}").terms == (Term(Atom("class", name)),)


def test_no_name_of_a_class_is_a_cue() -> None:
    assert not set(class_names()) & set(cue_words())


MEMBERS = {
    "months": ("May", "january", "Sept"),
    "weekdays": ("Monday", "tuesday", "Fri"),
    "numbers": ("3", "1,000", "2.5"),
    "years": ("1984", "2008"),
    "commas": (",",),
    "quotation marks": ('"', "”"),
    "newlines": ("\n",),
    "words in capitals": ("NASA", "HTTP"),
    "capitalised words": ("Paris", "NASA"),
    "single letters": ("x", "I"),
    "URLs": ("https://a.org/b",),
    "negations": ("not", "don't", "Never"),
    "feminine pronouns": ("She", "her"),
    "function words": ("the", "of", "and"),
    "end-of-text tokens": ("<|endoftext|>", "</s>"),
}
OUTSIDERS = {
    "months": ("may", "march", "mayor"),
    "weekdays": ("sun", "sat"),
    "years": ("19845", "300"),
    "words in capitals": ("A", "Paris"),
    "capitalised words": ("paris",),
    "single letters": ("ab", "1"),
    "feminine pronouns": ("sheep", "there"),
    "Python keywords": ("NONE", "Def"),
}


def test_members_of_classes() -> None:
    for name, members in MEMBERS.items():
        assert [one for one in members if not class_pattern(name).search(one)] == [], name
    for name, others in OUTSIDERS.items():
        assert [one for one in others if class_pattern(name).search(one)] == [], name


FAILED = (
    ("", "is empty"),
    (" \n ", "is empty"),
    ("None", "says nothing"),
    ("N/A", "says nothing"),
    ("unknown", "says nothing"),
    ("...", "says nothing"),
    (
        "Explanation generation failed (ConnectionError): vLLM connection error - server may be "
        "down or unreachable",
        "is an error message",
    ),
    ("vLLM connection error", "is an error message"),
    ("HTTP 500", "is an error message"),
    ("Traceback (most recent call last):\n  File", "is an error message"),
    ("openai.RateLimitError: Error code: 429", "is an error message"),
    ("TimeoutError()", "is an error message"),
    ("Failed to generate explanation", "is an error message"),
    ("{'error': 'busy'}", "is an error message"),
    ("I'm sorry, but I can't help", "is a refusal"),
    ("As an AI language model, I cannot", "is a refusal"),
    ("You are a meticulous AI researcher", "repeats its prompt"),
    ("This neuron activates on specific tokens.", "is boilerplate"),
    ("words such as", "stops in the middle"),
)
FINE = (
    '"None"',
    "`None`",
    "error messages in logs",
    "words about connection errors",
    "exceptions and errors in Python code",
    "Python error types such as ValueError and TypeError",
    "apologies such as I'm sorry",
    "text about AI assistants",
    "HTTP status codes such as 404 or 500",
    "Boilerplate disclaimers and disclosure statements in financial articles",
    "unclear, something with names",
    'the token "Error" in tracebacks',
    "negation (can't, don't)",
    "and",
)


@pytest.mark.parametrize(("text", "why"), FAILED)
def test_failed_texts(text: str, why: str) -> None:
    assert failure(text) == why


@pytest.mark.parametrize("text", FINE)
def test_texts_that_only_speak_of_failures(text: str) -> None:
    assert failure(text) == ""


def test_copies_are_counted_by_latent() -> None:
    texts = [(0, "Plural nouns."), (0, "plural  nouns"), (1, "plural nouns"), (2, "nouns")]
    found = copies([Explanation("layers.0.mlp", latent, text) for latent, text in texts])
    assert found == [2, 2, 2, 1]
    assert normalised(" Plural  Nouns. ") == "plural nouns"


def test_how_many_copies_are_too_many() -> None:
    # At least 5; 1% of the explained latents; 20 at the most.
    assert not is_copied(4, 10)
    assert is_copied(5, 10)
    assert not is_copied(9, 1000)
    assert is_copied(10, 1000)
    assert is_copied(20, 100_000)


def test_any_text_is_read_and_soon() -> None:
    rng = np.random.default_rng(0)
    parts = ["'", '"', "`", "“", "(", ")", ":", ",", "after", "not", "such as", "word", "-", "_",
             "a", "3", "months", "anything", "fires", "\n", "…", "ending in", "<script>", "\ue000",
             "but", "where", "expected next", "so far", "\x00", "é", "9" * 30]  # fmt: skip
    for _ in range(400):
        text = " ".join(rng.choice(parts, size=rng.integers(1, 12)))
        claim = read_claim(text)
        assert isinstance(str(claim), str)
        failure(text)
    began = time.perf_counter()
    for text in ("`" * 200_000, "“" * 200_000, "(" * 200_000, "a, " * 100_000, "' " * 100_000):
        read_claim(text)
        failure(text)
    assert time.perf_counter() - began < 5


def test_what_is_read_is_capped_and_says_so() -> None:
    claim = read_claim('"a" ' * 3000)
    assert claim.terms == (Term(Atom("text", "a")),)
    assert claim.partial
    assert not re.search("cannot be read", str(read_claim('"a" "a"')))
