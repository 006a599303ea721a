"""Types of layout and structure: by hand, against a loop per position, round trips, the future."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from labeler.errors import NotApplicableError
from labeler.functions import check_function_type, get_function_type
from labeler.functions.automaton import make_automaton
from labeler.tokens import Tokens
from tests.texts import (
    contexts,
    exported,
    keys_of,
    prepared,
    random_tokens,
    restored,
    tokens_of,
)

# The first two are frequent in the random contexts.
VOCAB = (
    *(" the", " word", "The", "s", "<0xC3>", "\u00e9", "<|endoftext|>", "9", ".", "!", "?", '."'),
    *(")", "(", "[", "]", "{", "}", "()", "])", "({", " (", ").", ',"', "..", " .", "!) ", "x)(y"),
    *('"', ' "', "'", " '", "'s", "`", "\u201c", "\u201d", "\u2018", "\u2019", "\u2019s", "\u00ab"),
    *("\u00bb", "\n", "\n\n", ".\n", "\r\n", "  ", "    ", "\t", "\n    ", "\n  \n", "\n\t", " \n"),
    *(" =", ";", "_x", "'\n\n\"", '"\n', "x\n  y", " '\u2019", "a'b' c", "   ", "\n\n)", "\n "),
    *("\n\nx\ny", "\n\nx\n"),
)
NAMES = (
    *("position", "sentence_position", "line_position", "first_token", "first_sentence"),
    *("inside_quotes", "brackets", "code", "indentation"),
)


@pytest.fixture(scope="module")
def text() -> Tokens:
    return random_tokens(VOCAB, seed=0)


# -- derived by hand -------------------------------------------------------------------------------


def test_position_by_hand() -> None:
    # Exact to 15; buckets 16 to 19 (key 16), 20 to 23 (17), 24 to 31 (18), 32 to 39 (19).
    keys = keys_of("position", *["a"] * 34)
    assert keys == [*range(16), *[16] * 4, *[17] * 4, *[18] * 8, 19, 19]
    kind = get_function_type("position")()
    assert kind.render(3) == "position 3"
    assert kind.render(18) == "positions 24 to 31"
    assert kind.render(len(kind.constants["edges"]) - 1) == "positions 65536 or more"


def test_sentence_position_by_hand() -> None:
    # "He left." and the closing quote after the full stop are one sentence; a blank line ends
    # "A title", and the quote that opens the next paragraph is its first token.
    row = ["He", " left", ".", '"', " A", " title", "\n", "\n", '"', "Yes", "!", " No"]
    assert keys_of("sentence_position", *row) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 0]
    # White space after an end belongs to it; so do further marks.
    row = ["a", "?", "!", "\n", "b", "<|endoftext|>", "c"]
    assert keys_of("sentence_position", *row) == [0, 1, 2, 3, 0, 1, 0]
    kind = get_function_type("sentence_position")()
    assert kind.render(0) == "the first token of a sentence"
    assert kind.render(1) == "1 token into a sentence"
    assert kind.render(18) == "24 to 31 tokens into a sentence"


def test_line_position_by_hand() -> None:
    # No key before the first newline; a newline is the last token of its line.
    row = ["a", "b", "\n", "c", "d", ".\n", "\n", "<|endoftext|>", "e"]
    assert keys_of("line_position", *row) == [-1, -1, -1, 0, 1, 2, 0, 0, 0]
    assert get_function_type("line_position")().render(2) == "2 tokens into a line"


def test_first_token_by_hand() -> None:
    # Two newlines make a blank line, whether in one token or in two; the second is no first token.
    row = [
        "a",
        "b",
        "\n",
        "c",
        "\n",
        "\n",
        "d",
        "\n\n",
        "e",
        ".\n",
        " ",
        "\n",
        "f",
        "\n",
        "  ",
        "g",
    ]
    want = [0, -1, -1, 2, -1, -1, 1, -1, 1, -1, 2, -1, 1, -1, 2, -1]
    assert keys_of("first_token", *row) == want
    assert keys_of("first_token", "\n", "a") == [0, 2]
    kind = get_function_type("first_token")()
    assert [kind.render(key).split()[-1] for key in range(3)] == ["context", "paragraph", "line"]


def test_first_sentence_by_hand() -> None:
    # White space first is left out; three tokens, the inside, the end, and nothing after it.
    row = ["\n\n", '"', "a", "b", "c", "d", ".", '"', "e", "."]
    assert keys_of("first_sentence", *row) == [-1, 0, 0, 0, 1, 1, 2, -1, -1, -1]
    assert keys_of("first_sentence", "a", ".", "b") == [0, 2, -1]
    kind = get_function_type("first_sentence")()
    assert [kind.render(key) for key in range(3)] == [
        "the first 3 tokens of a context's first sentence",
        "the inside of a context's first sentence",
        "the end of a context's first sentence",
    ]


def test_inside_quotes_by_hand() -> None:
    # The opening quote is inside, the closing one outside.
    assert keys_of("inside_quotes", "a", ' "', "b", '"', "c") == [0, 1, 1, 0, 0]
    assert keys_of("inside_quotes", "\u201c", "a", '"', "\u201d", "`", "c", "`") == [
        *(2, 2, 2, 0),
        *(3, 3, 0),
    ]
    # An apostrophe opens nothing; a single quote after a space does; "'s" does not close it.
    assert keys_of("inside_quotes", "dog", "'", " x", "'s") == [0, 0, 0, 0]
    assert keys_of("inside_quotes", "a", " '", "it", "'s", "'", "b") == [0, 4, 4, 4, 0, 0]
    # A blank line ends all, in one token or two; a single newline does not.
    assert keys_of("inside_quotes", '"', "\n", "a", "\n", " ", "\n", "a") == [1, 1, 1, 1, 1, 0, 0]
    assert keys_of("inside_quotes", '"', ".\n\n", '"', "<|endoftext|>") == [1, 0, 1, 0]
    kind = get_function_type("inside_quotes")()
    assert kind.render(0) == "text outside quotes"
    assert kind.render(3) == "text inside backquotes"


def test_brackets_by_hand() -> None:
    # key = 3 * kind + depth - 1; round 0, square 1, curly 2.
    assert keys_of("brackets", "a", " (", "b", "[", "c", "]", ")", "d") == [
        -1,
        0,
        0,
        4,
        4,
        0,
        -1,
        -1,
    ]
    # f({}) in two tokens; a closing bracket that was not opened; a third and a fourth level.
    assert keys_of("brackets", "({", "})", ")", "{{", "((", "}", "}") == [7, -1, -1, 7, 2, 6, -1]
    # One that closes an outer bracket closes what is open inside it.
    assert keys_of("brackets", "(", "[", ")", "]") == [0, 4, -1, -1]
    # Of ten open brackets the two outermost are forgotten: eight closing ones empty the stack.
    assert keys_of("brackets", "(" * 10, ")" * 7, ")") == [2, 0, -1]
    kind = get_function_type("brackets")()
    assert kind.render(0) == "text inside round brackets"
    assert kind.render(4) == "text inside square brackets, two brackets deep"
    assert kind.render(8) == "text inside curly brackets, three or more brackets deep"


def test_code_by_hand() -> None:
    # No key before the 8th token. 1 symbol of 8 is above 1/16 and not above 3/16; 2 of 9 = .22 and
    # 2 of 10 = .2 are above 3/16, 2 of 11 = .18 is not.
    row = [*["a"] * 6, "=", *["a"], "{", "a", "a"]
    assert keys_of("code", *row) == [*[-1] * 7, 1, 2, 2, 1]
    # The window holds 16: a symbol at 0 is in it up to position 15 (1 of 16: prose).
    assert keys_of("code", ";", *["a"] * 17)[7:] == [*[1] * 8, 0, 0, 0]
    # 5 of 16 is still mostly code, 6 is code.
    assert keys_of("code", *["a"] * 11, *["("] * 6)[-2:] == [2, 3]
    # A lone byte is written <0xC3>, which is no code; a <div> is.
    assert keys_of("code", ";", *["<0xC3>"] * 16)[-1] == 0
    assert keys_of("code", *["<div>"] * 8)[-1] == 3
    kind = get_function_type("code")()
    assert [kind.render(0), kind.render(3)] == ["prose", "code"]


def test_indentation_by_hand() -> None:
    # Columns 0 to 4 are exact, 5 to 7 is bucket 5, 8 is bucket 6. No key before a newline; the
    # newline at the end of an indented line belongs to it.
    row = ["  ", "a", "\n", "   ", " b", "  ", "\n", "c", "\n    ", "    ", "d", "\n\n", "\t", "e"]
    want = [-1, -1, -1, 3, 4, 4, 4, 0, 4, 6, 6, 6, 4, 4]
    assert keys_of("indentation", *row) == want
    kind = get_function_type("indentation")()
    assert kind.render(0) == "a line without indentation"
    assert kind.render(1) == "a line indented by 1 space"
    assert kind.render(5) == "a line indented by 5 to 7 spaces"
    assert kind.render(12) == "a line indented by 24 or more spaces"


# -- against a loop per position -------------------------------------------------------------------

CLOSERS = "\"'\u201d\u2019\u00bb)]}"
MARKS = ".!?\u3002\uff01\uff1f"


def plain(text: str) -> str:
    return "\n\n" if text == "<|endoftext|>" else text.replace("<0xC3>", "\ufffd")


def bucket(number: int) -> int:
    """Exact to 15, then 16 2^k times 1, 1.25, 1.5."""
    if number < 16:
        return number
    octave = number.bit_length() - 5
    return 16 + 3 * octave + (number >= 20 << octave) + (number >= 24 << octave)


def completes_blank_line(row: list[str], i: int) -> bool:
    """Whether the last newline of some blank line lies in token i."""
    before, text = "".join(row[:i]), "".join(row[: i + 1])
    ends = [found.end(1) for found in re.finditer(r"(?=(\n[^\S\n]*\n))", text)]
    return any(end > len(before) for end in ends)


def on_blank_line(row: list[str]) -> bool:
    return re.search(r"\n[^\S\n]*$", "".join(row)) is not None


def sentences(row: list[str]) -> tuple[list[bool], list[bool]]:
    """Whether each token starts a sentence, and whether one has ended with it."""
    starts, ended = [], []
    for i, text in enumerate(row):
        bare = text.rstrip()
        marks_only = bool(bare) and all(c in CLOSERS + MARKS for c in bare)
        stays = not bare.strip() or (marks_only and not on_blank_line(row[:i]))
        was = bool(ended) and ended[-1]
        starts.append(i == 0 or (was and not stays))
        mark = bare.rstrip(CLOSERS)[-1:]
        ends = bool(mark) and mark in MARKS
        ended.append(ends or completes_blank_line(row, i) or (was and stays))
    return starts, ended


def naive_position(row: list[str]) -> list[int]:
    return [bucket(i) for i in range(len(row))]


def naive_sentence_position(row: list[str]) -> list[int]:
    starts, _ = sentences(row)
    return [bucket(i - max(j for j in range(i + 1) if starts[j])) for i in range(len(row))]


def naive_line_position(row: list[str]) -> list[int]:
    found = []
    for i in range(len(row)):
        newlines = [j for j in range(i) if "\n" in row[j]]
        found.append(bucket(i - newlines[-1] - 1) if newlines else -1)
    return found


def naive_first_token(row: list[str]) -> list[int]:
    found = [0]
    for i in range(1, len(row)):
        if "\n" not in row[i - 1] or ("\n" in row[i] and not row[i].strip()):
            found.append(-1)
        else:
            found.append(1 if completes_blank_line(row, i - 1) else 2)
    return found


def naive_first_sentence(row: list[str]) -> list[int]:
    begin = next((i for i, text in enumerate(row) if text.strip()), len(row))
    _, ended = sentences(row)
    end = next((i for i in range(begin, len(row)) if ended[i]), len(row))
    keys = {
        **dict.fromkeys(range(begin, end), 1),
        **dict.fromkeys(range(begin, min(begin + 3, end)), 0),
    }
    keys[end] = 2
    return [keys.get(i, -1) for i in range(len(row))]


def naive_inside_quotes(row: list[str]) -> list[int]:
    pairs = {1: '""', 2: "\u201c\u201d", 3: "``", 4: "''", 5: "\u2018\u2019", 6: "\u00ab\u00bb"}
    found, so_far, kind = [], "", 0
    for text in row:
        for j, c in enumerate(text):
            if c == "\n" and re.search(r"\n[^\S\n]*$", so_far):
                kind = 0
            elif kind:
                before_letter = c in "'\u2019" and text[j + 1 : j + 2].isalnum()
                if c == pairs[kind][1] and not before_letter:
                    kind = 0
            elif c == "'":
                kind = 4 if not so_far or so_far[-1].isspace() else 0
            else:
                kind = next((k for k, pair in pairs.items() if c == pair[0]), 0)
            so_far += c
        found.append(kind)
    return found


def naive_brackets(row: list[str]) -> list[int]:
    found: list[int] = []
    stack: list[int] = []
    for text in row:
        for c in text:
            if c in "([{":
                stack = [*stack, "([{".index(c)][-8:]
            elif c in ")]}" and ")]}".index(c) in stack:
                while stack.pop() != ")]}".index(c):
                    pass
        found.append(3 * stack[-1] + min(len(stack), 3) - 1 if stack else -1)
    return found


def naive_code(row: list[str]) -> list[int]:
    found = []
    for i in range(len(row)):
        window = row[max(0, i - 15) : i + 1]
        like = [
            any(c in text for c in "{}()[];=_<>\\|&*+#$@^~/\t") or "  " in text or "\n " in text
            for text in window
        ]
        share = sum(like) / len(like)
        found.append(-1 if i < 7 else sum(share > limit / 16 for limit in (1, 3, 5)))
    return found


def naive_indentation(row: list[str]) -> list[int]:
    edges = [0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 17, 24]
    found = []
    for i, text in enumerate(row):
        before = "".join(row[:i])
        so_far = before + (text.split("\n")[0] if text.endswith("\n") else text)
        *earlier, line = so_far.split("\n")
        space = line[: len(line) - len(line.lstrip())].replace("\r", "").replace("\t", " " * 4)
        found.append(sum(len(space) >= edge for edge in edges) - 1 if earlier else -1)
    return found


NAIVE: dict[str, Callable[[list[str]], list[int]]] = {
    name: globals()[f"naive_{name}"] for name in NAMES
}


@pytest.mark.parametrize("name", NAMES)
def test_against_a_loop(name: str, text: Tokens) -> None:
    keys = prepared(name, text).keys(text)
    for found, row in zip(keys.tolist(), contexts(text), strict=True):
        assert found[: len(row)] == NAIVE[name]([plain(token) for token in row])
    # The text is rich enough to tell: most keys of the fixed lists occur.
    least = {"first_token": 3, "first_sentence": 3, "code": 4, "indentation": 7, "inside_quotes": 7}
    assert len(np.unique(keys[text.valid])) >= least.get(name, 8)


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_and_source(name: str, text: Tokens) -> None:
    kind = prepared(name, text)
    keys, again = kind.keys(text), restored(kind)
    assert np.array_equal(again.keys(text), keys)
    assert np.array_equal(exported(again, text.ids), keys)


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_is_kept(name: str, text: Tokens) -> None:
    check_function_type(get_function_type(name), text)
    check_function_type(get_function_type(name))


@pytest.mark.parametrize("name", NAMES)
def test_most_keys_can_be_written(name: str, text: Tokens) -> None:
    kind = restored(prepared(name, text))
    keys = np.unique(kind.keys(text)[text.valid])
    keys = keys[keys >= 0]
    written = 0
    for key in keys.tolist():
        ids = np.full(40, text.vocab.index("s"), dtype=np.int32)
        places = [0, 3, 38, *range(16, 36, 4)] if name == "position" else [0, 3, 38]
        edits = [(pos, kind.write(ids, pos, key)) for pos in [*places, key % 16]]
        for pos, edited in edits:
            if edited is not None:
                found = kind.keys(tokens_like(text, edited))[0, pos]
                assert found == key
                assert np.array_equal(edited[pos + 1 :], ids[pos + 1 :])
        assert (ids == text.vocab.index("s")).all()
        written += any(edited is not None for _, edited in edits)
    assert written == len(keys) > 2


def tokens_like(text: Tokens, ids: np.ndarray) -> Tokens:
    return tokens_of([[text.vocab[token] for token in ids]], text.vocab)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"position", "first_token"}))
def test_types_abstain_where_the_vocabulary_has_nothing_for_them(name: str) -> None:
    with pytest.raises(NotApplicableError, match="no token of the vocabulary"):
        prepared(name, tokens_of([["a", " b"]]))


@pytest.mark.parametrize("name", NAMES)
def test_a_context_of_one_token(name: str, text: Tokens) -> None:
    one = tokens_of([["\n"], [" the"]], text.vocab)
    kind = prepared(name, text)
    assert kind.keys(one).shape == (2, 1)
    assert np.array_equal(exported(kind, one.ids), kind.keys(one))


def test_an_automaton_reads_each_signature_once() -> None:
    reads = []

    def step(signature: str, state: int) -> int:
        reads.append(signature)
        return (state + len(signature)) % 3

    made = make_automaton(["a", "bb", "c", "", "dddd"], lambda text: "x" * len(text), step, 3)
    assert len(reads) == 4 * 3
    # Texts of 1 and of 4 characters lead to the same states and share a line.
    assert made["table"].shape == (3, 3)
    assert made["row"][0] == made["row"][2] == made["row"][4] != made["row"][1]
