"""Labels in words, every expectation derived by hand."""

import doctest
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from labeler import text
from labeler.frames import types_frame
from labeler.text import MODIFIERS, SHOWN, formula, sentence

Row = tuple[str, float, float, int]


def entries(*rows: Row) -> pl.DataFrame:
    """Text, weight, value and n of each entry."""
    schema = {"text": pl.String, "weight": pl.Float32, "value": pl.Float32, "n": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


# -- sentences -------------------------------------------------------------------------------------


def test_keys_are_named_by_what_they_carry() -> None:
    # 2 * 10 = 20, 3 * 50 = 150, 1 * 30 = 30: "b" first, then "c", then "a".
    rows = entries(("a", 2, 2.1, 10), ("b", 3, 3.1, 50), ("c", 1, 1.1, 30))
    assert sentence(rows, 0.5) == "fires on b, c, a"


def test_keys_that_do_not_reach_the_threshold_strengthen() -> None:
    # Alone "b" and "c" predict 0.9 and 0.4, below 1: they add to what "a" predicts.
    rows = entries(("a", 2, 2.1, 10), ("b", 0.8, 0.9, 50), ("c", 0.3, 0.4, 60))
    assert sentence(rows, 1.0) == "fires on a; stronger with b, c"


def test_what_is_small_beside_the_largest_goes_unsaid() -> None:
    # A tenth of the largest weight of 4 is 0.4; a key that fires alone is said all the same.
    rows = entries(
        ("a", 4, 4.1, 10), ("b", 0.39, 0.5, 500), ("c", 0.4, 0.5, 50), ("d", -0.39, 0, 90),
        ("e", -0.4, 0, 9), ("f", 0.3, 1.2, 5),
    )  # fmt: skip
    assert sentence(rows, 1.0) == "fires on a, f; stronger with c; weaker with e"


def test_an_exception_is_what_takes_the_strongest_below_the_threshold() -> None:
    # " not" predicts 3.1 by itself. Under "could not" it loses 2.9: 0.2 is below 1. Under "did
    # not" it loses 1.5: 1.6 still fires.
    rows = entries(
        ("` not`", 3, 3.1, 100), ("` could not`", -2.9, 0.2, 20), ("` did not`", -1.5, 1.6, 30)
    )
    assert sentence(rows, 1.0) == ("fires on ` not`; weaker with ` did not`; unless ` could not`")
    # 3.1 - 1.5 = 1.6 and 3.1 - 2.9 = 0.2, on either side of other thresholds; 2.9 * 20 = 58 is
    # more than 1.5 * 30 = 45.
    assert sentence(rows, 1.65) == "fires on ` not`; unless ` could not`, ` did not`"
    assert sentence(rows, 0.15) == "fires on ` not`; weaker with ` could not`, ` did not`"


def test_the_strongest_key_decides_what_is_an_exception() -> None:
    # "b" loses 1.5: of "a" (1.2) nothing is left, of "c" (4) 2.5 is.
    rows = entries(("a", 1.1, 1.2, 100), ("b", -1.5, -1.4, 50), ("c", 3.9, 4, 10))
    assert sentence(rows, 1.0) == "fires on a, c; weaker with b"
    assert sentence(rows[:2], 1.0) == "fires on a; unless b"


def test_all_the_parts_at_once() -> None:
    rows = entries(
        ("a", 3, 3.1, 100), ("b", 0.5, 0.6, 80), ("c", -1, -0.9, 60), ("d", -3, -2.9, 40)
    )
    assert sentence(rows, 1.0) == "fires on a; stronger with b; weaker with c; unless d"


def test_long_lists_are_counted() -> None:
    # Of nine that fire, six are named; of five of each other kind, three.
    fires = [(f"f{i}", 10 - i, 10 - i, 1) for i in range(9)]
    more = [(f"m{i}", 1.5, 0.5, 5 - i) for i in range(5)]
    less = [(f"l{i}", -1.5, -1, 5 - i) for i in range(5)]
    never = [(f"n{i}", -9.5, -9, 5 - i) for i in range(4)]
    assert (SHOWN, MODIFIERS) == (6, 3)
    assert sentence(entries(*more, *never, *fires, *less), 1.0) == (
        "fires on f0, f1, f2, f3, f4, f5 and 3 more; stronger with m0, m1, m2 and 2 more; "
        "weaker with l0, l1, l2 and 2 more; unless n0, n1, n2 and 1 more"
    )
    # As many as are named leave none to count.
    assert sentence(entries(*fires[:6]), 1.0) == "fires on f0, f1, f2, f3, f4, f5"


def test_keys_of_which_none_is_enough() -> None:
    rows = entries(("a", 0.5, 0.6, 10), ("b", 0.4, 0.5, 50))
    assert sentence(rows, 1.0) == "leans towards b, a, never one of them alone"
    rows = entries(("a", 0.5, 0.6, 10), ("b", -0.1, 0, 50))
    # Nothing fires that "b" could be an exception to.
    assert sentence(rows, 1.0) == "leans towards a, never one of them alone; weaker with b"


def test_keys_that_only_take_away() -> None:
    # A default of 2: after "a" 2 - 1.9 = 0.1 is left, after "b" 2 - 0.5 = 1.5.
    rows = entries(("a", -1.9, 0.1, 10), ("b", -0.5, 1.5, 5))
    assert sentence(rows, 1.0) == "fires at any token; weaker with b; unless a"
    assert sentence(rows, 1.4) == "fires at any token; weaker with b; unless a"
    assert sentence(rows, 1.6) == "fires at any token; unless a, b"
    # A threshold that not even the default reaches.
    assert sentence(rows, 2.5) == "fires at no token; weaker with a, b"


def test_no_entry_at_all() -> None:
    assert sentence(entries(), 1.0).startswith("predicts its mean: no key saves enough")


def test_equals_stay_in_the_order_they_were_chosen() -> None:
    rows = entries(("b", 1, 2, 10), ("a", 1, 2, 10), ("c", 2, 2, 5))
    assert sentence(rows, 1.0) == "fires on b, a, c"


# -- formulas --------------------------------------------------------------------------------------


def test_formula_by_hand() -> None:
    # 2 * 5 = 10, 0.25 * 100 = 25, 1 * 3 = 3.
    rows = entries(("` not`", 2, 2, 5), ("topic law", -0.25, 0, 100), ("` no`", 1, 1, 3))
    assert formula(rows, 0.125) == "act = 0.125 - 0.25*[topic law] + 2*[` not`] + 1*[` no`]"
    assert formula(rows, -0.5, most=1) == "act = -0.5 - 0.25*[topic law] + 2 more"
    assert formula(rows, 12.3456, most=3).startswith("act = 12.3 -")
    assert formula(entries(), 0.5) == "act = 0.5"


def test_formula_rounds_to_three_digits_and_counts_the_rest() -> None:
    rows = entries(*((f"k{i}", 1.23456 * 10**-i, 1, 1) for i in range(10)))
    assert formula(rows, 0) == (
        "act = 0 + 1.23*[k0] + 0.123*[k1] + 0.0123*[k2] + 0.00123*[k3] + 0.000123*[k4] "
        "+ 1.23e-05*[k5] + 1.23e-06*[k6] + 1.23e-07*[k7] + 2 more"
    )


def test_doctests() -> None:
    assert doctest.testmod(text).failed == 0


# -- the table of scores ---------------------------------------------------------------------------


def test_types_frame_has_a_row_per_type_and_latent() -> None:
    r2 = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    fit = SimpleNamespace(types=["unigram", "topic"], r2=r2, bits=10 * r2, net_bits=9 * r2)
    frame = types_frame(fit)  # type: ignore[arg-type]
    assert frame.columns == ["latent", "type", "r2", "bits", "net_bits"]
    assert len(frame) == 6
    for index, kind in enumerate(["unigram", "topic"]):
        for latent in range(3):
            row = frame.filter((pl.col("type") == kind) & (pl.col("latent") == latent))
            assert row["r2"].item() == r2[index, latent]
            assert row["bits"].item() == pytest.approx(10 * r2[index, latent])
