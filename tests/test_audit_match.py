import numpy as np
import pytest
from audit_text import text_of

from labeler.eval.audit.claim import Atom, Claim, Term, read_claim
from labeler.eval.audit.match import READINGS, TextIndex
from labeler.tokens import Tokens

# 0 "The", 1 " men", 2 " over", 3 "ate", 4 ",", 5 " the", 6 "n", 7 " MEN", 8 ".", 9 "\n" |
# 10 "men", 11 " are", 12 " in", 13 " May", 14 " 19", 15 "84", 16 " then"
FIRST = ["The", " men", " over", "ate", ",", " the", "n", " MEN", ".", "\n"]
SECOND = ["men", " are", " in", " May", " 19", "84", " then"]


@pytest.fixture(scope="module")
def index() -> TextIndex:
    return TextIndex(text_of([FIRST, SECOND]))


def spans(index: TextIndex, text: str, reading: str = "words") -> list[tuple[int, int]]:
    found = index.find(read_claim(text), reading)
    return list(zip(found.first.tolist(), found.last.tolist(), strict=True))


def test_positions_are_those_of_the_tokens(index: TextIndex) -> None:
    assert index.position.tolist() == [*range(10), *range(10, 17)]
    assert index.reach.tolist() == [*range(1, 10), 9, *range(11, 17), 16]


def test_words_are_whole_words_of_several_tokens(index: TextIndex) -> None:
    assert spans(index, '"men"') == [(1, 1), (7, 7), (10, 10)]
    assert spans(index, '"overate"') == [(2, 3)]
    assert spans(index, '"ate"') == []  # a part of "overate"
    assert spans(index, '"the"') == [(0, 0)]  # " the" goes on as "then"
    assert spans(index, '"then"') == [(5, 6), (16, 16)]
    assert spans(index, '"the men"') == [(0, 1)]
    assert spans(index, '"."') == [(8, 8)]


def test_readings_differ_in_case_and_in_pieces(index: TextIndex) -> None:
    assert spans(index, '"men"', "cased") == [(1, 1), (10, 10)]
    assert spans(index, '"men"', "tokens") == [(10, 10)]
    assert spans(index, '" men"', "tokens") == [(1, 1)]
    assert spans(index, '"men"', "pieces") == [(1, 1), (7, 7), (10, 10)]
    assert spans(index, '"the"', "pieces") == [(0, 0), (5, 5)]
    assert spans(index, '"overate"', "tokens") == []
    assert spans(index, '" overate"', "tokens") == [(2, 3)]
    assert spans(index, '"overate"', "pieces") == [(2, 3)]


def test_only_readings_that_differ_are_given(index: TextIndex) -> None:
    assert list(index.readings(read_claim("months"))) == ["words"]
    assert list(index.readings(read_claim('"men"'))) == ["words", "cased", "tokens"]


def test_classes(index: TextIndex) -> None:
    assert spans(index, "months") == [(13, 13)]
    assert spans(index, "years") == [(14, 15)]
    assert spans(index, "newlines") == [(9, 9)]
    assert spans(index, "commas and periods") == [(4, 4), (8, 8)]
    assert spans(index, "capitalised words") == [(0, 0), (7, 7), (13, 13)]
    assert spans(index, 'months and "may"') == [(13, 13)]  # one place, said twice
    assert spans(index, "first token") == [(0, 0), (10, 10)]


def test_how_words_begin_and_end(index: TextIndex) -> None:
    assert spans(index, "words starting with the") == [(0, 0), (5, 6), (16, 16)]
    assert spans(index, "words ending in -en") == [(1, 1), (5, 6), (7, 7), (10, 10), (16, 16)]
    assert spans(index, 'tokens containing "at"', "tokens") == [(3, 3)]


def test_what_stands_after_and_before(index: TextIndex) -> None:
    assert spans(index, 'any token after "the"') == [(1, 1)]
    assert spans(index, '"men" after "the"') == [(1, 1)]
    assert spans(index, '"men" after "then"') == [(7, 7)]
    assert spans(index, '"men" before "are"') == [(10, 10)]
    assert spans(index, "any token before a comma") == [(3, 3)]
    assert spans(index, "newlines after a period") == [(9, 9)]
    # The line end is the last of its context: nothing comes after it.
    assert spans(index, "any token after a newline") == []


def test_tokens_between_are_counted(index: TextIndex) -> None:
    assert spans(index, "fires on `The` _ ` over`", "tokens") == [(2, 2)]
    assert spans(index, "fires on anything 2 tokens after `men`", "tokens") == [(12, 12)]
    # " over" is not two after " men", and a context ends between "\n" and " are".
    assert spans(index, "fires on ` men` _ ` over`", "tokens") == []
    assert spans(index, "fires on `↵` _ ` are`", "tokens") == []


def test_exceptions(index: TextIndex) -> None:
    assert spans(index, 'words ending in -en, except "men"') == [(5, 6), (16, 16)]
    found = spans(index, 'any token except "men" and "then"')
    assert [one for one, _ in found] == [0, 2, 3, 4, 8, 9, 11, 12, 13, 14, 15]


def test_a_backslash_may_be_one_in_backquotes() -> None:
    index = TextIndex(text_of([["a", "\\n", "b", "\n"]]))
    assert spans(index, r"the token `\n`", "tokens") == [(1, 1)]
    assert spans(index, r"the token `\n`", "words") == [(3, 3)]
    assert spans(index, r'the token "\n"', "tokens") == [(3, 3)]


def test_edges_and_odd_characters_are_only_text() -> None:
    index = TextIndex(text_of([["\ue000", "İ", " x’s"], ["(", ")", "aa", "a"], ["", "[a-z]+"]]))
    assert spans(index, '"x\'s"') == [(2, 2)]
    assert spans(index, '"aa"') == []  # "aaa" is one word
    assert spans(index, '"[a-z]+"') == [(8, 8)]
    assert spans(index, '")"') == [(4, 4)]
    assert spans(index, '"i"') == []


def is_word(char: str) -> bool:
    return char.isalnum()


def slow(tokens: Tokens, term: Term, reading: str) -> set[tuple[int, int]]:
    """Token ranges where a term of plain text holds, by trying every range of characters."""
    found, base = set(), 0
    for row in range(tokens.n_ctx):
        texts = [tokens.vocab[one] for one in tokens.ids[row, : tokens.length[row]]]
        places = {}
        for atom in [term.atom, *term.after, *term.before]:
            if atom is not None:
                places[atom] = slow_atom(texts, atom, reading, tokens.vocab)
        everywhere = {(n, n) for n in range(len(texts))}
        heads = places[term.atom] if term.atom else {(n, n, None, None) for n, _ in everywhere}
        for first, last, start, end in heads:
            ok = True
            for others, behind in ((term.after, True), (term.before, False)):
                if not others:
                    continue
                ok = ok and any(
                    adjoins("".join(texts), start, end, one, first, behind)
                    for other in others
                    for one in places[other]
                )
            if ok:
                found.add((base + first, base + last))
        base += len(texts)
    return found


def adjoins(text, start, end, other, first, behind) -> bool:
    if start is None:
        return first == (other[1] + 1 if behind else other[0] - 1)
    between = (other[3], start) if behind else (end, other[2])
    if between[0] > between[1]:
        # A space before a word may be a part of what is before it.
        return text[between[1] : between[0]].isspace()
    return between[0] == between[1] or text[between[0] : between[1]].isspace()


def slow_atom(texts, atom, reading, vocab):
    text, low = "".join(texts), "".join(texts).lower()
    token = [n for n, one in enumerate(texts) for _ in one]
    begins = {len("".join(texts[:n])) for n in range(len(texts))}
    ends = {len("".join(texts[: n + 1])) for n in range(len(texts))}
    wanted = atom.text if reading == "tokens" else atom.text.strip()
    found = set()
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            piece = text[start:end]
            if reading in ("words", "pieces"):
                if low[start:end] != wanted.lower():
                    continue
            elif piece != wanted:
                continue
            if reading in ("words", "cased"):
                if is_word(piece[0]) and start and is_word(text[start - 1]):
                    continue
                if is_word(piece[-1]) and end < len(text) and is_word(text[end]):
                    continue
            else:
                at_begin = start in begins
                if reading == "pieces":
                    at_begin |= start - 1 in begins and text[start - 1] == " "
                if not at_begin or end not in ends:
                    continue
                whole = [one if reading == "tokens" else one.strip().lower() for one in vocab]
                key = wanted if reading == "tokens" else wanted.lower()
                if key in whole and token[start] != token[end - 1]:
                    continue
                if key in whole and reading == "pieces" and texts[token[start]].strip() != piece:
                    continue
            found.add((token[start], token[end - 1], start, end))
    return found


@pytest.mark.slow
def test_against_trying_every_stretch_of_text() -> None:
    rng = np.random.default_rng(1)
    pieces = ["a", "b", " a", " b", "ab", " ab", "A", " B", ",", " ,", ".", "(", "a.", " a,"]
    texts = ["a", "b", "ab", " a", "ba", "aab", ",", ".", "a.", "A", " ab", "a b", "(", "b,"]
    checked = 0
    for seed in range(12):
        contexts = [rng.choice(pieces, size=rng.integers(1, 9)).tolist() for _ in range(5)]
        tokens = text_of(contexts)
        index = TextIndex(tokens)
        for _ in range(30):
            one, other = (Atom("text", text) for text in rng.choice(texts, size=2).tolist())
            terms = [Term(one), Term(one, after=(other,)), Term(one, before=(other,))]
            terms += [Term(None, after=(other,)), Term(None, before=(one, other))]
            for term in terms:
                for reading in READINGS:
                    found = index.find(Claim((term,)), reading)
                    fast = set(zip(found.first.tolist(), found.last.tolist(), strict=True))
                    assert fast == slow(tokens, term, reading), (seed, contexts, term, reading)
                    checked += len(fast)
    assert checked > 1000
