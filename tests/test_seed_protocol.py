"""The seed study's evaluation: its published table, its rules by hand, and what it lets pass."""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from labeler.arrays import Bools
from labeler.errors import OptionError
from labeler.eval.firings import TextFirings
from labeler.eval.generate import Reply, Request
from labeler.eval.scene import Scene
from labeler.eval.seed_probes import KINDS, Want, build, wants_of
from labeler.eval.seed_protocol import PUBLISHED, SeedResult, published_table, seed_protocol
from labeler.eval.seed_sentences import GeneratedSentences, HeldoutSentences
from labeler.tokens import Tokens
from tests.synthetic import firings_of, plain_tokens

SPACE = 9
"""The space in the vocabulary of `vocab_tokens`."""


def vocab_tokens(rows: Sequence[Sequence[int]], n_vocab: int = 60, **options: Any) -> Tokens:
    made = plain_tokens(rows, n_vocab=n_vocab, **options)
    vocab = tuple(" " if token == SPACE else f"<{token}>" for token in range(n_vocab))
    return Tokens(**{**vars_of(made), "vocab": vocab})


def vars_of(tokens: Tokens) -> dict[str, Any]:
    return {name: getattr(tokens, name) for name in Tokens.__dataclass_fields__}


@pytest.mark.shared
def test_published_table_is_the_studys(shared_data: Path) -> None:
    table = published_table(shared_data / "seed-results" / "eval_results.jsonl.gz")
    assert table["layer"].to_list() == list(range(1, 13))
    assert table["n_latents"].to_list() == [82] * 12
    assert [round(one, 2) for one in table["explained"]] == list(PUBLISHED)
    total = table.sum().row(0, named=True)
    counts = [(total[f"{kind} success"], total[kind]) for kind in KINDS]
    assert counts == [(1418, 3783), (832, 1929), (249, 984)]
    assert (total["n_success"], total["n_silent"], total["n_probes"]) == (2499, 142, 6696)


def probe(layer: int, latent: int, kind: str, act: float, success: bool) -> dict[str, Any]:
    return {
        "layer": layer,
        "latent_index": latent,
        "type": kind,
        "activation_value": act,
        "success": success,
        "text": "any",
    }


def test_published_table_counts_a_latent_once(tmp_path: Path) -> None:
    rows = [
        probe(1, 0, "top-token", 0.0, True),
        probe(1, 0, "top-token", 0.5, True),
        probe(1, 1, "connecting-tokens", 0.0, False),
        probe(0, 7, "detecting-dataset-topic", 0.2, True),
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "plain.jsonl").write_text(text)
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as stream:
        stream.write(text)
    table = published_table(tmp_path / "plain.jsonl")
    assert table.equals(published_table(tmp_path / "packed.jsonl.gz"))
    assert table["layer"].to_list() == [1, 2]
    assert table["explained"].to_list() == [1.0, 0.5]
    assert table["n_latents"].to_list() == [1, 2]
    assert table["n_success"].to_list() == [1, 2]
    assert table["n_silent"].to_list() == [0, 1]
    assert table["specific token"].to_list() == [0, 2]
    assert table["connecting tokens success"].to_list() == [0, 0]
    assert table["dataset topic success"].to_list() == [1, 0]


@pytest.mark.parametrize("content", [None, "no json\n", '{"layer": 0}\n', "[1]\n", ""])
def test_published_table_names_a_file_that_is_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "eval_results.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError, match=r"eval_results\.jsonl: not the seed study's results"):
        published_table(path)


def acts_on(text: Tokens, cells: dict[tuple[int, int], float], latent: int, n: int) -> np.ndarray:
    """Dense activations of one latent, by (context, offset)."""
    acts = np.zeros((text.ids.size, n), np.float32)
    for (context, offset), act in cells.items():
        acts[context * text.ctx_len + offset, latent] = act
    return acts


def test_wants_follow_the_studys_rules() -> None:
    rows = [[1] * 64 for _ in range(30)]
    for context, row in enumerate(rows):
        row[3], row[40], row[50] = 20 + context % 6, 30, 31 + context % 2
    names = [("s0", f"b{i % 2}") for i in range(30)]
    fit = vocab_tokens(rows, topics=names)
    # Token 30 fires weakly but everywhere, 20 to 25 strongly; 31 beats 32 by a little.
    cells = {}
    for context in range(30):
        cells |= {(context, 3): 2.0, (context, 40): 1.0, (context, 50): 1.5 - context % 2}
    # The last six contexts have the lowest peak and are not among the 24 top sequences.
    cells |= {(context, 3): 1.9 for context in range(24, 30)}
    acts = acts_on(fit, cells, 1, 3)
    # Latent 2 fires on two tokens only: no tokens, no pairs.
    acts[5 * 64 + 3, 2] = acts[5 * 64 + 40, 2] = 1
    wants = wants_of(fit, firings_of(acts), np.array([1, 2]))
    mine = [want for want in wants if want.latent == 1]
    specific = [want.tokens for want in mine if want.kind == KINDS[0]]
    # Sums over 24 sequences: 30 has 24, 31 has 18; each of 20 to 25 has 8; two sentences each.
    assert specific == [(30,), (30,), (31,), (31,)]
    pairs = [want.tokens for want in mine if want.kind == KINDS[1]]
    # 30 meets 31 and 32 in 12 sequences each, ten tokens apart.
    assert pairs == [(30, 31), (30, 32)]
    topics = [want.topics for want in mine if want.kind == KINDS[2]]
    assert topics == [((0, "s0"), (1, "b0"), (1, "b1"))]
    others = [want for want in wants if want.latent == 2]
    assert [(want.kind, want.tokens) for want in others] == [(KINDS[2], ())]
    plain = wants_of(vocab_tokens(rows), firings_of(acts), np.array([2]))
    assert plain == []


def test_wants_sum_over_the_top_sequences_only() -> None:
    rows = [[1] * 64 for _ in range(30)]
    for context, row in enumerate(rows):
        row[:8] = [*range(20, 27), 30 if context < 24 else 40]
    cells = {(context, offset): 1.0 for context in range(30) for offset in range(8)}
    cells |= {(context, 7): 2.0 for context in range(24)}
    # The last six have lower peaks, however often their token 40 fires.
    for context in range(24, 30):
        rows[context][8:40] = [40] * 32
        cells |= {(context, offset): 1.9 for offset in range(7, 40)}
    fit = vocab_tokens(rows)
    wants = wants_of(fit, firings_of(acts_on(fit, cells, 0, 1)), np.array([0]))
    assert wants[0].tokens == (30,)
    assert all(40 not in want.tokens for want in wants)
    # Not only the top sequence counts: 20 to 26 come next, the lowest number first.
    assert wants[2].tokens == (20,)


class Written:
    """Sentences written out by the test."""

    def __init__(self, *sentences: Sequence[int] | None) -> None:
        self.sentences = sentences

    def write(self, wants: Sequence[Want]) -> list[Any]:
        return [None if one is None else np.array(one, dtype=np.int64) for one in self.sentences]


def test_probes_are_tiled_and_end_in_their_targets() -> None:
    wants = [
        Want(0, KINDS[0], (5,)),
        Want(0, KINDS[0], (5,)),
        Want(0, KINDS[1], (6, 7)),
        Want(0, KINDS[2], topics=((0, "s"),)),
        Want(1, KINDS[0], (5,)),
        Want(1, KINDS[0], (5,)),
    ]
    sentences = Written([1, 2, 3], [1, 5, 3], [7] * 70, [1, 2], None, [])
    probes = build(wants, sentences, vocab_tokens([[1]]), max_ctx=128)
    assert probes.wants == tuple(wants[:4])
    ids = probes.text.ids
    assert ids.shape == (4, 64)
    assert ids[0].tolist() == [*([1, 2, 3] * 22)[:62], SPACE, 5]
    assert ids[2].tolist() == [7] * 60 + [SPACE, 6, SPACE, 7]
    assert ids[3].tolist() == [1, 2] * 32
    # Read at the first occurrence, which the sentence may hold; the topic anywhere.
    assert probes.read.tolist() == [[63, 63], [1, 1], [61, 0], [-1, -1]]
    spaceless = build(wants[:1], Written([1, 2, 3]), plain_tokens([[1]]), max_ctx=16)
    assert spaceless.text.ids.tolist() == [([1, 2, 3] * 5) + [5]]


def test_heldout_sentences_hold_their_target_early() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 20, size=(30, 64)).tolist()
    rows[4][30] = 40
    rows[7][0] = 41  # the first token of a context is never in a sentence
    names = [("s0" if i < 29 else "s1", "b") for i in range(30)]
    text = vocab_tokens(rows, topics=names)
    found = HeldoutSentences(text, seed=0).write(
        [
            *[Want(0, KINDS[0], (40,))] * 20,
            Want(0, KINDS[0], (41,)),
            Want(0, KINDS[0], (59,)),
            *[Want(0, KINDS[1], (59, 40))] * 20,
            *[Want(0, KINDS[2], topics=((0, "s1"), (1, "b")))] * 20,
        ]
    )
    made = [[] if one is None else one.tolist() for one in found]
    where = [one.index(40) for one in made[:20]]
    assert min(where) == 0
    assert max(where) == 7
    assert all(len(one) == 24 for one in made[:20])
    assert 41 not in made[20]
    assert len(made[20]) > 0
    assert len(made[21]) > 0
    assert 0 < sum(40 in one for one in made[22:42]) < 20
    last = " ".join(map(str, rows[29][1:]))
    assert all(" ".join(map(str, one)) in last for one in made[42:])
    again = HeldoutSentences(text, seed=0).write([Want(0, KINDS[0], (40,))] * 20)
    assert [None if one is None else one.tolist() for one in again] == made[:20]
    assert HeldoutSentences(vocab_tokens([[1], [2]]), seed=0).write([Want(0, KINDS[0], (1,))]) == [
        None
    ]


class Spelled:
    """A tokenizer of digits, one token each."""

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        assert options == {"add_special_tokens": False}
        return {"input_ids": [int(letter) for letter in text]}

    def decode(self, ids: list[int]) -> str:
        return "".join(map(str, ids))


class Echo:
    """A generator that continues what it is given, last request first, and fails on topics."""

    name, fingerprint = "echo", "1"

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(
        self, requests: Sequence[Request], advance: Callable[[float], None] = lambda n: None
    ) -> Iterator[tuple[Request, Reply]]:
        for request in reversed(requests):
            self.asked.append(request)
            if request.kind == "like":
                yield request, Reply(None, "refused")
            else:
                text = f"{request.before}12{request.number}"
                yield request, Reply(text, n_before=len(request.before))


def test_generated_sentences_leave_out_what_was_given(tmp_path: Path) -> None:
    text = plain_tokens([[1, 2, 3, 4, 5, 6]] * 3, topics=[("s", "b")] * 3)
    wants = [
        *[Want(3, KINDS[0], (5,))] * 2,
        Want(3, KINDS[1], (6, 5)),
        Want(3, KINDS[2], topics=((0, "s"), (1, "b"))),
    ]
    echo = Echo()
    source = GeneratedSentences(
        echo, Spelled(), text, hookpoint="h.0", cache_path=tmp_path / "echo.jsonl", seed=2
    )
    found = [None if one is None else one.tolist() for one in source.write(wants)]
    assert found == [[1, 2, 0], [1, 2, 1], [1, 2, 2], None]
    first, *_, last = echo.asked[::-1]
    assert (first.key, first.kind, first.latent, first.hookpoint) == ("<5>", "contain", 3, "h.0")
    assert (last.kind, last.key, last.about) == ("like", "", "text about s, b")
    assert all(0 < len(request.before) <= 8 for request in echo.asked)
    assert len(source.write(wants)) == 4
    assert len(echo.asked) == 4  # kept in the file


@dataclass
class TokenSubject:
    """Latents that fire by the token alone; activations float32 [n_vocab, n_latents]."""

    table: np.ndarray
    max_ctx: int = 128

    def firings(
        self,
        tokens: Tokens,
        hookpoints: Sequence[str],
        where: Bools | None = None,
        advance: Callable[[float], None] = lambda n: None,
    ) -> dict[str, TextFirings]:
        acts = self.table[tokens.ids.ravel()]
        position, latent = np.nonzero(acts)
        made = TextFirings.make(
            position,
            latent,
            acts[position, latent],
            n_positions=len(acts),
            n_latents=acts.shape[1],
        )
        advance(tokens.n_ctx)
        return dict.fromkeys(hookpoints, made)


@dataclass
class Named:
    """As much of `Claims` as the protocol reads."""

    hookpoint: str = "h.0"


def run(table: np.ndarray, filler: float, **options: Any) -> SeedResult:
    """The protocol on three latents that fire on eight tokens each, among filler (token 1)."""
    rng = np.random.default_rng(0)

    def text(n: int) -> Tokens:
        ids = rng.integers(10, 34, size=(n, 64))
        return vocab_tokens(np.where(rng.random(ids.shape) < filler, 1, ids).tolist())

    fit, heldout = text(40), text(20)
    subject = TokenSubject(table.astype(np.float32))
    scene = Scene(
        subject=subject,
        claims=Named(),  # type: ignore[arg-type]
        source=fit,
        source_calls=None,  # type: ignore[arg-type]
        heldout=heldout,
        firings=None,  # type: ignore[arg-type]
        calls=None,  # type: ignore[arg-type]
        latents=np.array([1, 2, 3]),
        partner=np.array([-1, 2, 3, 1]),
        seed=0,
    )
    return seed_protocol(
        scene, fit, firings_of(table[fit.ids.ravel()].astype(np.float32)), **options
    )


def table_of(act: float) -> np.ndarray:
    """Latent i of 1 to 3 fires on tokens 10 + 8 (i - 1) to 17 + 8 (i - 1)."""
    table = np.zeros((60, 4))
    for latent in (1, 2, 3):
        table[2 + 8 * latent : 10 + 8 * latent, latent] = act
    return table


def test_sparse_latents_pass_on_their_own_tokens_only() -> None:
    done: list[float] = []
    # Means stay below .01: a silent latent fails.
    found = run(table_of(0.03), filler=0.9, advance=done.append)
    frame = found.latents
    assert sum(done) == 18
    assert frame["latent"].to_list() == [1, 2, 3]
    assert frame["n_probes"].to_list() == [6, 6, 6]
    assert frame["passes"].to_list() == [True] * 3
    assert frame["passes_random"].to_list() == [False] * 3
    assert frame["beats"].to_list() == [True] * 3
    assert frame["beats_random"].to_list() == [False] * 3
    summary = found.summary()
    assert summary["passes"]["own"]["share"] == 1
    assert summary["passes"]["random"]["share"] == 0
    assert summary["passes"]["own"]["low"] == pytest.approx(0.4385, abs=1e-3)
    assert summary["probes"]["specific token"]["own"]["n"] == 12
    assert summary["probes"]["connecting tokens"]["random"]["n"] == 6
    assert summary["probes"]["dataset topic"]["own"]["share"] is None


def test_a_mean_above_the_threshold_lets_random_labels_pass_in_silence() -> None:
    found = run(table_of(3.0), filler=0.5)
    frame = found.latents
    assert frame["passes"].to_list() == [True] * 3
    assert frame["passes_random"].to_list() == [True] * 3
    assert frame["fires"].to_list() == [True] * 3
    assert frame["fires_random"].to_list() == [False] * 3
    # Ours looks at firings, and at the control.
    assert frame["beats"].to_list() == [True] * 3
    assert frame["beats_random"].to_list() == [False] * 3
    random = found.probes.filter(pl.col("label") == "random")
    assert random["success"].all()
    assert (random["activation"] == 0).all()
    tally = found.summary()["probes"]["specific token"]["random"]
    assert tally["n_silent"] == tally["n"] == 12


def test_success_is_distance_from_the_mean_over_all_probes() -> None:
    table = table_of(1.0)
    table[:, 2] = 0.5  # fires on everything alike
    found = run(table, filler=0.5)
    frame = found.latents
    assert frame.filter(pl.col("latent") == 2)["passes"].to_list() == [False]
    assert frame.filter(pl.col("latent") == 2)["passes_random"].to_list() == [False]
    probes = found.probes.filter(pl.col("latent") == 2)
    assert probes["mean"].unique().to_list() == pytest.approx([0.5])
    assert not probes["success"].any()
    # It fires on its own probes and on the control's: no better than that.
    assert frame.filter(pl.col("latent") == 2)["beats"].to_list() == [False]


def test_connecting_tokens_read_the_mean_of_both_targets() -> None:
    table = table_of(0.0)
    table[10:18, 1] = np.arange(1, 9)
    table[18:26, 2] = table[26:34, 3] = 1
    found = run(table, filler=0.5)
    mine = found.probes.filter(
        (pl.col("latent") == 1) & (pl.col("label") == "own") & (pl.col("kind") == KINDS[1])
    )
    assert len(mine) == 2
    # Two different tokens with activations 1 to 8.
    assert all(act * 2 == round(act * 2) and 1.5 <= act <= 7.5 for act in mine["activation"])
    specific = found.probes.filter(
        (pl.col("latent") == 1) & (pl.col("label") == "own") & (pl.col("kind") == KINDS[0])
    )
    assert specific["activation"].to_list() == [8, 8, 7, 7]


def test_topic_probes_take_the_highest_activation_of_the_text() -> None:
    text = vocab_tokens([[1] * 63 + [30], [1] * 64], topics=[("s0", "b"), ("s1", "b")])
    fit = vocab_tokens([[1, 30] * 32] * 2, topics=[("s0", "b"), ("s1", "c")])
    table = np.zeros((60, 2))
    table[30] = [0.4, 0.0]
    table[1] = [0.1, 0.2]
    scene = Scene(
        subject=TokenSubject(table.astype(np.float32)),
        claims=Named(),  # type: ignore[arg-type]
        source=fit,
        source_calls=None,  # type: ignore[arg-type]
        heldout=text,
        firings=None,  # type: ignore[arg-type]
        calls=None,  # type: ignore[arg-type]
        latents=np.array([0, 1]),
        partner=np.array([1, 0]),
        seed=0,
    )
    acts = table[fit.ids.ravel()].astype(np.float32)
    acts[64:, 0] = 0  # latent 0 fires in documents of s0 only
    wanted = Written([1, 30, 1, 1], [1])
    found = seed_protocol(scene, fit, firings_of(acts), sentences=wanted)
    own = found.probes.filter(pl.col("label") == "own")
    assert own["kind"].to_list() == [KINDS[2]] * 2
    assert own["activation"].to_list() == pytest.approx([0.4, 0.2])
    random = found.probes.filter(pl.col("label") == "random")
    assert random["activation"].to_list() == pytest.approx([0.1, 0.2])
    # Fewer than six probes: no verdict by ours, and nobody is left as a third.
    assert found.latents["beats"].to_list() == [None, None]
    assert found.summary()["beats"]["own"]["n"] == 0
