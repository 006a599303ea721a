"""Function types of characters and words: by hand, against the whole text, saved, exported."""

import codecs
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from labeler.errors import NotApplicableError
from labeler.functions import check_function_type, get_function_type, word_table
from labeler.functions.pieces import BROKEN, Pieces
from labeler.functions.word_table import hashes, powers, word_hash
from labeler.tokens import Tokens
from tests.synthetic import plain_tokens
from tests.texts import exported, prepared, restored

NAMES = [
    *("word", "previous_word", "suffix", "prefix"),
    *("shape", "digits", "punctuation", "white_space", "word_length"),
]


def text_tokens(*rows: list[str], fold: list[int] | None = None) -> Tokens:
    """Contexts given by the texts of their tokens; the vocabulary is what they hold, sorted."""
    vocab = sorted({text for row in rows for text in row})
    numbers = [[vocab.index(text) for text in row] for row in rows]
    plain = plain_tokens(numbers, fold=fold, n_vocab=len(vocab))
    return replace(plain, vocab=tuple(vocab))


def read(name: str, row: list[str]) -> list[str | None]:
    """What the keys of a row read, prepared on the row itself, twice."""
    tokens = text_tokens(row, row)
    kind = prepared(name, tokens)
    return [None if key < 0 else kind.render(int(key)) for key in kind.keys(tokens)[0]]


def quoted(text: str | None) -> str | None:
    """What stands in backquotes."""
    found = re.search("`(.*)`", text or "")
    return found[1] if found else None


# -- derived by hand -------------------------------------------------------------------------------

SENTENCE = [" un", "believ", "able", ",", " don", "'t", " iP", "hone", "\n", "a.b_1c", " (", "x"]


def test_word_derived_by_hand() -> None:
    assert [quoted(text) for text in read("word", SENTENCE)] == [
        *("un", "unbeliev", "unbelievable", None, "don", "t"),
        *("iP", "iPhone", None, "b_1c", None, "x"),
    ]
    assert read("word", SENTENCE)[1] == "the word `unbeliev` so far"


def test_previous_word_derived_by_hand() -> None:
    # " don" ends nothing: the comma had ended "unbelievable". "'t" ends "don". "a.b_1c" holds "a".
    assert [quoted(text) for text in read("previous_word", SENTENCE)] == [
        *(None, None, None, "unbelievable", "unbelievable", "don"),
        *("t", "t", "iPhone", "a", "b_1c", "b_1c"),
    ]
    assert read("previous_word", SENTENCE)[5] == "anything after the word `don`"


def test_words_inside_and_at_the_ends_of_a_token() -> None:
    # "d e f g": ends "abcd", holds "e" and "f", begins "g".
    row = [" abc", "d e f g", "h", " ", " i"]
    assert [quoted(text) for text in read("word", row)] == ["abc", "g", "gh", None, "i"]
    assert [quoted(text) for text in read("previous_word", row)] == [None, "f", "f", "gh", "gh"]


def test_suffix_and_prefix_derived_by_hand() -> None:
    # A suffix takes four characters; digits and underscores are no letters; lower case.
    row = [" Un", "believ", "ABLE", " don", " a", "b", "c", "d", " x_yz", "w", " 12ab", "cd"]
    assert [quoted(text) for text in read("suffix", row)] == [
        *(None, "iev", "ble", None, None, None, None, "bcd", None, "yzw", None, "bcd"),
    ]
    assert [quoted(text) for text in read("prefix", row)] == [
        *(None, "unb", "unb", "don", None, None, "abc", "abc", None, None, None, None),
    ]
    assert read("suffix", row)[1] == "words that so far end in `iev`"
    assert read("prefix", row)[1] == "words that begin with `unb`"


def test_shape_derived_by_hand() -> None:
    shapes = {
        " the": "lower-case words",
        "s": "lower-case words",
        " A": "Capitalised words",
        "B": "UPPER-CASE words",
        "C": "UPPER-CASE words",
        "d": "miXed-case words",
        " In": "Capitalised words",
        "deed": "Capitalised words",
        "X": "miXed-case words",
        " 20": "digits",
        "1": "digits",
        "th": "letters with digits",
        " x2": "letters with digits",
        " in_": "words with an underscore",
        "T": "words with an underscore",
        " 日": "words in letters without case",
        "go": "lower-case words",
        "+": "punctuation and symbols",
        " ": "white space",
        "\x00": "other characters",
    }
    assert dict(zip(shapes, read("shape", list(shapes)), strict=True)) == shapes


def test_digits_derived_by_hand() -> None:
    numbers = [
        *((" 1", "1 digit"), ("9", "2 digits"), ("9", "3 digits"), ("9", "1000 to 2099")),
        *(("9", "5 digits"), ("9", "6 or more"), ("9", "6 or more"), (" x", None)),
        *((" 3", "1 digit"), (".", None), ("1", "1 place"), ("4", "2 places"), ("15", "3 or more")),
        *((".", None), ("7", "1 digit"), (",", None), ("000", "3 digits"), (" 20", "2 digits")),
        *(("99", "1000 to 2099"), (" 21", "2 digits"), ("00", "other than 1000 to 2099")),
        *((" 0999", "other than"), (" x1999", "1000 to 2099"), ("..", None), ("5", "1 digit")),
    ]
    found = read("digits", [token for token, _ in numbers])
    for (token, wanted), text in zip(numbers, found, strict=True):
        assert (text is None) == (wanted is None), token
        assert wanted is None or wanted in (text or "")


def test_punctuation_derived_by_hand() -> None:
    row = [" the", ",", '."', " $", "_", "\n", "`", "1"]
    assert read("punctuation", row) == [
        *(None, "tokens that end in `,`", 'tokens that end in `"`', "tokens that end in `$`"),
        *("tokens that end in `_`", None, "tokens that end in `````", None),
    ]


def test_white_space_derived_by_hand() -> None:
    lines = [
        ("if", "without white space"),
        (" x", "leading"),
        (":\n", "a new line"),
        ("    ", "1 to 4"),
        (" ", "5 to 8"),
        (" pass", "leading"),
        ("\r\n", "a new line"),
        ("\r", "a new line"),
        ("\n", "a blank line"),
        ("  ", "1 to 4"),
        ("\n\n", "a blank line"),
        (" " * 9, "more than 8"),
        ("x", "without white space"),
        ("\t", "a tab inside"),
        (" ", "a tab inside"),
        ("y", "without"),
        (" ", "a single space"),
        ("\u00a0", "several spaces"),
        ("\n\t", "with tabs"),
        (" ", "with tabs"),
        ("\r", "with tabs"),
        ("\n", "a blank line"),
    ]
    found = read("white_space", [token for token, _ in lines])
    for (token, wanted), text in zip(lines, found, strict=True):
        assert wanted in (text or ""), token


def test_word_length_derived_by_hand() -> None:
    row = [" un", "believ", "ab", "le", "s", ",", "a", " 12_3"]
    found = [None if text is None else text.split()[2] for text in read("word_length", row)]
    assert found == ["2", "8", "10", "12", "12", None, "1", "4"]
    assert read("word_length", row)[3] == "words of 12 or more characters so far"
    assert read("word_length", row)[6] == "words of 1 character so far"


# -- characters split over tokens ------------------------------------------------------------------


def test_a_letter_in_two_tokens_continues_the_word() -> None:
    row = [" caf<0xC3>", "<0xA9>", "s", " x"]
    assert [quoted(text) for text in read("word", row)] == [None, "café", "cafés", "x"]
    assert [quoted(text) for text in read("suffix", row)] == [None, "afé", "fés", None]
    assert [text and text.split()[2] for text in read("word_length", row)] == [None, "4", "5", "1"]
    assert read("shape", row)[:2] == [None, "lower-case words"]
    assert read("white_space", row)[0] is None
    assert [quoted(text) for text in read("punctuation", [",", ",<0xC3>", "<0xA9>"])] == [
        *(",", None, None),
    ]


def test_a_quotation_mark_in_two_tokens_ends_the_word() -> None:
    row = [" don", "<0xE2><0x80>", "<0x99>", "t", "<0xE2><0x80>", "<0x9D>"]
    assert [quoted(text) for text in read("word", row)] == ["don", None, None, "t", None, None]
    assert [quoted(text) for text in read("previous_word", row)] == [
        *(None, None, "don", "don", "don", "t"),
    ]
    found = [quoted(text) for text in read("punctuation", row)]
    assert found == [None, None, "’", None, None, "”"]


def test_a_character_in_four_tokens() -> None:
    row = ["a", *("<0xF0>", "<0x9F>", "<0x98>", "<0x80>"), "b"]
    assert Pieces(text_tokens(row)).ids.tolist()[0][1:4] != [1, 2, 3]
    pieces = Pieces(text_tokens(row))
    assert [pieces.texts[number] for number in pieces.ids[0]] == ["a", "", "", "", "😀", "b"]
    assert pieces.unfinished[pieces.ids[0]].tolist() == [False, True, True, True, False, False]


def test_an_unknown_combination_is_a_break() -> None:
    # The fit split has é in two tokens, not è: it ends the word, and the next word is whole again.
    known = [" caf<0xC3>", "<0xA9>", " th", "e", "<0xA8>"]
    unknown = [" caf<0xC3>", "<0xA8>", "e", " th", "e"]
    tokens = text_tokens(known, known, unknown, fold=[0, 1, -1])
    kind = prepared("word", tokens)
    keys = kind.keys(tokens)[2].tolist()
    assert [None if key < 0 else kind.word(key) for key in keys] == [None, None, None, "th", "the"]
    kind = prepared("shape", tokens)
    assert kind.render(int(kind.keys(tokens)[2, 1])) == "other characters"


# -- which words -----------------------------------------------------------------------------------


def test_words_of_the_fit_split_met_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[" a", " b", " c"], [" a", " b", " d"], [" a", " d", " d"], [" c", " c", " c"]]
    tokens = text_tokens(*rows, fold=[0, 1, 2, -1])
    assert sorted(words(prepared("word", tokens))) == ["a", "b", "d"]
    monkeypatch.setattr(word_table, "MAX_WORDS", 2)
    assert sorted(words(prepared("word", tokens))) == ["a", "d"]


def test_long_words_are_left_out() -> None:
    tokens = text_tokens([" " + "x" * 40, " " + "y" * 41] * 2)
    assert words(prepared("word", tokens)) == ["x" * 40]


def words(kind: Any) -> list[str]:
    return [kind.word(key) for key in range(len(kind.state()["word_ends"]))]


def test_a_word_has_one_key_however_it_is_split() -> None:
    # As labels carry over between tokenizers; the second split was never seen in the fit split.
    fit = [[" inform", "ation", ",", " x"]] * 2
    tokens = text_tokens(*fit, [" in", "formation", ",", " x"], fold=[0, 1, -1])
    word, previous = prepared("word", tokens), prepared("previous_word", tokens)
    keys = word.keys(tokens)
    assert keys[0, 1] == keys[2, 1] >= 0
    assert word.word(int(keys[0, 1])) == "information"
    assert keys[2, 0] == -1
    keys = previous.keys(tokens)
    assert keys[0, 2] == keys[2, 2] >= 0


def test_words_have_different_hashes() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefgh_1é日"))
    texts = {"".join(rng.choice(letters, int(rng.integers(1, 9)))) for _ in range(20_000)}
    texts |= {char * n for char in "a1" for n in range(1, 41)}
    assert len(np.unique(hashes(sorted(texts)))) == len(texts)
    for one, other in [("in", "formation"), ("", "x"), ("日", "本")]:
        joined = hashes([one]) * powers([other]) + hashes([other])
        assert int(joined[0]) == word_hash(one + other)


# -- against the whole text ------------------------------------------------------------------------

AWKWARD = [
    *(" the", "the", "ing", " In", "form", "ation", " iPh", "ONE", "A", " B", "'s", " don", "_"),
    *("1", "9", "99", " 20", "14", ".", "3.", " 3.1", ",", "1,000", " v2", "x86", "²"),
    *("\n", "\n\n", "\r\n", " ", "    ", "         ", "\t", "\n\t", "\u00a0", ":\n  ", "\x0c"),
    *('"', "“Hi", "”", "(", ")", " (x", "a.b", "foo.bar(baz", "`", "``", "<|end|>", "<0x", "\x00"),
    *(
        "é",
        " É",
        "ß",
        "日",
        "本語",
        "हि",
        "e\u0301",
        "ǅ",
        "İ",
        " x\u2028y",
        "€",
        "->",
        " ==",
        "{}\n",
    ),
    *("<0xC3>", "<0xA9>", " caf<0xC3>", "<0xA9>s", "<0xE2><0x80>", "<0x99>", "<0x9D> so"),
    *("<0xF0><0x9F>", "<0x98>", "<0x80>", "\ufffd"),
]


@pytest.fixture(scope="module")
def awkward() -> Tokens:
    """Random rows of awkward tokens, some likelier after each other; the last ones held out."""
    rng = np.random.default_rng(0)
    weight = rng.gamma(0.7, size=(12, len(AWKWARD)))
    rows = []
    for number in range(240):
        chance = weight[number % 12] / weight[number % 12].sum()
        rows.append(rng.choice(len(AWKWARD), int(rng.integers(1, 31)), p=chance).tolist())
    fold = [*(number % 5 for number in range(200)), *[-1] * 40]
    return replace(plain_tokens(rows, fold=fold, n_vocab=len(AWKWARD)), vocab=tuple(AWKWARD))


def token_bytes(text: str) -> bytes:
    data = re.sub(r"<0x([89A-F][0-9A-F])>", lambda m: chr(0xDC00 + int(m[1], 16)), text)
    return data.encode("utf-8", "surrogateescape")


def texts_so_far(tokens: Tokens, context: int) -> list[tuple[str, str, bool]]:
    """Per position the text so far, what its token completed, and whether bytes are pending."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    out, text = [], ""
    for token in tokens.ids[context, : tokens.length[context]]:
        new = decoder.decode(token_bytes(tokens.vocab[token]))
        text += new
        out.append((text, new, bool(decoder.getstate()[0])))
    return out


def runs(text: str) -> list[tuple[int, int]]:
    """Start and end of each run of word characters."""
    inside = "".join(
        "w" if re.match(r"\w", char) or unicodedata.category(char).startswith("M") else "-"
        for char in text
    )
    return [match.span() for match in re.finditer("w+", inside)]


def open_word(text: str) -> str:
    spans = runs(text)
    return text[slice(*spans[-1])] if spans and spans[-1][1] == len(text) else ""


def letters(text: str) -> str | None:
    """Three letters in lower case, None where one is no letter."""
    if not all(char.isalpha() or unicodedata.category(char)[0] == "M" for char in text):
        return None
    return "".join(char.lower() if char != "İ" else char for char in text)


def oracle_shape(text: str) -> str:
    word = open_word(text)
    if not word:
        last = text[-1]
        if last.isspace():
            return "white space"
        punctuation = unicodedata.category(last)[0] in "PS" and last != BROKEN
        return "punctuation and symbols" if punctuation else "other characters"
    if "_" in word:
        return "words with an underscore"
    is_letter = [char.isalpha() or unicodedata.category(char)[0] == "M" for char in word]
    if not any(is_letter):
        return "digits"
    if not all(is_letter):
        return "letters with digits"
    case = "".join(
        "l" if char.islower() else "u" if char.isupper() or char.istitle() else "" for char in word
    )
    for pattern, shape in [
        ("", "words in letters without case"),
        ("l+", "lower-case words"),
        ("ul*", "Capitalised words"),
        ("u+", "UPPER-CASE words"),
    ]:
        if re.fullmatch(pattern, case):
            return shape
    return "miXed-case words"


def oracle_digits(text: str) -> str | None:
    numbers = list(re.finditer(r"(\d+)(?:\.(\d+))?", text))
    if not numbers or numbers[-1].end() != len(text):
        return None
    whole, places = numbers[-1].groups()
    if places:
        n = min(len(places), 3)
        return f"decimals with {n}{' or more' if n == 3 else ''} place{'s' * (n > 1)} so far"
    if len(whole) == 4:
        year = 1000 <= int(whole) <= 2099
        tail = "1000 to 2099 (years)" if year else "other than 1000 to 2099"
        return f"numbers of 4 digits so far, {tail}"
    n = min(len(whole), 6)
    return f"numbers of {n}{' or more' if n == 6 else ''} digit{'s' * (n > 1)} so far"


def oracle_white_space(text: str, new: str) -> str:
    run = text[len(text.rstrip()) :].replace("\r\n", "\n")
    if not run:
        return f"a token with{' leading white space' if new[:1].isspace() else 'out white space'}"
    lines = run.splitlines(keepends=True)
    n_ends = sum(line.splitlines()[0] != line for line in lines)
    rest = lines[-1] if lines[-1].splitlines()[0] == lines[-1] else ""
    if not n_ends:
        if "\t" in run:
            return "a tab inside a line"
        return "a single space" if len(run) == 1 else "several spaces inside a line"
    if not rest:
        return "a new line" if n_ends == 1 else "a blank line"
    if "\t" in rest:
        return "an indentation with tabs"
    band = "1 to 4" if len(rest) <= 4 else "5 to 8" if len(rest) <= 8 else "more than 8"
    return f"an indentation of {band}"


def oracle(name: str, text: str, new: str, pending: bool) -> str | None:
    """What the key of the last token of a text reads, or the start of it."""
    if name == "previous_word":
        spans = [span for span in runs(text) if span[1] < len(text)]
        return f"anything after the word `{text[slice(*spans[-1])]}`" if spans else None
    if pending:
        return None
    word = open_word(text)
    if name == "word":
        return f"the word `{word}` so far" if word else None
    if name == "suffix":
        found = letters(word[-3:]) if len(word) >= 4 else None
        return found and f"words that so far end in `{found}`"
    if name == "prefix":
        found = letters(word[:3]) if len(word) >= 3 else None
        return found and f"words that begin with `{found}`"
    if name == "shape":
        return oracle_shape(text)
    if name == "digits":
        return oracle_digits(text)
    if name == "white_space":
        return oracle_white_space(text, new)
    if name == "word_length":
        n = f"{len(word)}" if len(word) < 12 else "12 or more"
        return f"words of {n} character{'s' * (n != '1')} so far" if word else None
    last = text[-1]
    fence = "``" if last == "`" else "`"
    ends = unicodedata.category(last)[0] in "PS" and last != BROKEN
    return f"tokens that end in {fence}{last}{fence}" if ends else None


@pytest.mark.parametrize("name", NAMES)
def test_against_the_whole_text(name: str, awkward: Tokens) -> None:
    fit = awkward.fit
    kind = prepared(name, awkward)
    keys = kind.keys(fit)
    wanted = {
        (context, t): oracle(name, *so_far)
        for context in range(fit.n_ctx)
        for t, so_far in enumerate(texts_so_far(fit, context))
    }
    if name in ("word", "previous_word"):
        # Words at one position only have no key, nor have very long ones.
        count = Counter(wanted.values())
        wanted = {
            at: text if text and count[text] > 1 and len(quoted(text) or "") <= 40 else None
            for at, text in wanted.items()
        }
    seen = set()
    for (context, t), text in wanted.items():
        key = int(keys[context, t])
        found = None if key < 0 else kind.render(key)
        assert (found or "").startswith(text or ""), (context, t)
        assert (found is None) == (text is None)
        seen.add(found)
    assert len(seen) >= {"shape": 12, "digits": 8, "white_space": 11}.get(name, 12)
    assert sum(text is not None for text in wanted.values()) > 0.05 * len(wanted)


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_is_kept(name: str, awkward: Tokens) -> None:
    check_function_type(get_function_type(name))
    check_function_type(get_function_type(name), awkward)
    assert (prepared(name, awkward).keys(awkward)[awkward.valid] >= 0).mean() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_exported(name: str, awkward: Tokens) -> None:
    kind = prepared(name, awkward)
    again = restored(kind)
    keys = kind.keys(awkward)
    assert keys.dtype == np.int64
    assert np.array_equal(again.keys(awkward), keys)
    assert np.array_equal(exported(again, awkward.ids), keys)
    for key in np.unique(keys[keys >= 0]):
        assert again.render(int(key)) == kind.render(int(key))


@pytest.mark.parametrize("name", NAMES)
def test_written_contexts_have_the_key(name: str, awkward: Tokens) -> None:
    kind = restored(prepared(name, awkward))
    keys = kind.keys(awkward.fit)
    n_written = n_tried = 0
    rng = np.random.default_rng(0)
    distinct = np.unique(keys[keys >= 0])
    for key in rng.permutation(distinct)[:60]:
        for context in rng.integers(0, awkward.n_ctx, 5):
            pos = int(rng.integers(awkward.ctx_len))
            before = awkward.ids[context].copy()
            edited = kind.write(before, pos, int(key))
            n_tried += 1
            assert np.array_equal(before, awkward.ids[context])
            if edited is not None:
                n_written += 1
                found = kind.keys(replace(awkward.select(np.array([0])), ids=edited[None]))
                assert found[0, pos] == key
    # Many keys of this text take several tokens, or a word boundary that the context lacks.
    assert n_written > 0.05 * n_tried


@pytest.mark.parametrize("name", ["suffix", "digits", "word", "previous_word"])
def test_a_type_without_a_key_abstains(name: str) -> None:
    with pytest.raises(NotApplicableError, match=r"no (position|word)"):
        prepared(name, text_tokens(["."], ["!", " "]))
