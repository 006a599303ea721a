"""The triage: every reason on a latent made for it, its sums by hand, planted runs, the page."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tiny_run as tiny
from synthetic import Acts
from typer.testing import CliRunner

from labeler import steps
from labeler.analysis import TypeScores
from labeler.cli import app
from labeler.config import RunConfig
from labeler.errors import CacheError
from labeler.inputs import Run
from labeler.provenance import mark_done
from labeler.report.content import report_content
from labeler.report.contexts import N_BINS
from labeler.report.page import render
from labeler.report.unlabeled import EXAMPLES
from labeler.statistics import LatentFirings
from labeler.summary import write_summary
from labeler.tokens import Tokens
from labeler.triage import REASONS, count_reasons, triage, write_triage
from labeler.triage_facts import faint_share, family_weights, find_doubles, gather
from labeler.windows import save_tokens

LAYER = tiny.HOOKPOINTS[0]
TYPES = ["unigram", "topic", "previous_token", "next_token"]
N_POSITIONS = 10_000


def firings_of(columns: list[list[tuple[int, float]]]) -> LatentFirings:
    """Firings given latent by latent as (position, activation)."""
    return LatentFirings(
        0,
        np.cumsum([0, *(len(column) for column in columns)]),
        np.array([position for column in columns for position, _ in column], dtype=np.int32),
        np.array([act for column in columns for _, act in column], dtype=np.float32),
    )


def latent(**changes: Any) -> dict[str, Any]:
    """A labeled latent that no reason but the last applies to; `changes` make another apply."""
    neutral = {
        "status": "labeled",
        "n_fit": 100,
        "f1": 0.3,
        "f1_whole": 0.3,
        "pearson": 0.3,
        "n_heldout": 50,
        "q": 0.0,
        "function_type": "unigram",
        "bits": [90.0, 50.0, 0.0, -5.0],
        "net_bits": [80.0, 10.0, 0.0, 0.0],
        "weights": {"unigram": 10.0},
        # Firing together with no other latent, all of the same strength.
        "acts": None,
    }
    assert not changes.keys() - neutral.keys()
    return neutral | changes


def sorted_out(latents: list[dict[str, Any]], *, verified: bool = True) -> list[tuple[str, str]]:
    """Reason and detail of each latent, ("", "") for those left out."""
    columns = [
        one["acts"] or [(1000 * index + at, 1.0) for at in range(min(one["n_fit"], 1000))]
        for index, one in enumerate(latents)
    ]
    every = np.arange(len(latents))

    def of(name: str) -> list[Any]:
        return [one[name] for one in latents]

    frame = pl.DataFrame(
        {
            "latent": every,
            "status": of("status"),
            "n_fit": of("n_fit"),
            "function_type": of("function_type"),
            "bits": [one["bits"][TYPES.index(one["function_type"])] for one in latents],
            "q": of("q"),
            "f1_fit_100": [0.4] * len(latents),
            "f1_out_of_fold": [0.4] * len(latents),
            "text": ["unexplained: nothing helps"] * len(latents),
            "closest": [[{"type": "topic", "bits": 50.0}]] * len(latents),
        }
    )
    entries = pl.DataFrame(
        [
            {"budget": 100, "latent": index, "level": level, "weight": -weight, "n": 1}
            for index, one in enumerate(latents)
            for level, weight in one["weights"].items()
        ],
        schema={
            "budget": pl.Int32, "latent": pl.Int32, "level": pl.String, "weight": pl.Float32,
            "n": pl.Int64,
        },
    )  # fmt: skip
    heldout = pl.concat(
        pl.DataFrame(
            {
                "latent": every,
                "budget": budget,
                "n_heldout": of("n_heldout"),
                "f1": of(f1),
                "pearson": of("pearson"),
            }
        )
        for budget, f1 in (("100", "f1"), ("unlimited", "f1_whole"))
    )
    scores = TypeScores(
        TYPES, np.array(of("bits"), dtype=float).T, np.array(of("net_bits"), dtype=float).T
    )
    facts = gather(
        frame, scores, entries, heldout if verified else None, firings_of(columns), N_POSITIONS
    )
    found = {row[0]: row[1:] for row in triage(facts).iter_rows()}
    return [found.get(int(index), ("", "")) for index in every]


MANY = {"unigram": 50.0, "topic": 30.0, "previous_token": 20.0}
FADING = [(0, 40.0), *((at, 1.0) for at in range(1, 30))]  # mean 2.3: 29 of 30 are below half of it

# Each latent is made for its reason; where it can, a later reason applies to it too.
MADE_FOR = {
    "too rare": latent(status="too_rare", n_fit=29, f1=0.0),
    "dense": latent(n_fit=1001, acts=FADING),
    "output-side": latent(net_bits=[80, 10, 0, 81], acts=FADING),
    "faint firings": latent(acts=FADING, weights=MANY),
    "nearly": latent(status="abstained", q=0.05, weights=MANY),
    "several rules": latent(weights=MANY, function_type="topic"),
    "context": latent(function_type="topic", f1_whole=0.9),
    "many keys": latent(f1_whole=0.9),
    "unexplained": latent(),
}


@pytest.mark.parametrize("reason", MADE_FOR)
def test_each_reason_on_a_latent_made_for_it(reason: str) -> None:
    ((found, _),) = sorted_out([MADE_FOR[reason]])
    assert found == reason


def test_redundant_with_one_that_fires_more() -> None:
    acts = [(at, 1.0 + at % 3) for at in range(100)]
    more = [*acts, (200, 1.0)]
    less = [(at, 2 * act) for at, act in acts]
    found = sorted_out(
        [latent(acts=less, n_fit=100), latent(acts=more, n_fit=101), latent(acts=less, n_fit=100)]
    )
    # The third fires as often as the first, whose number is lower; the second fires most.
    assert [reason for reason, _ in found] == ["redundant", "unexplained", "redundant"]
    assert found[0][1] == "cosine 1.00 with latent 1, which fires 101 times, it 100 times"
    assert "with latent 0" in found[2][1]


def test_thresholds() -> None:
    def reason(**changes: Any) -> str:
        return sorted_out([latent(**changes)])[0][0]

    assert reason(n_fit=1000) == "unexplained"  # exactly a tenth of the positions
    assert reason(net_bits=[80, 10, 0, 80]) == "unexplained"  # looking ahead saves no more
    assert reason(pearson=0.7) == "faint firings"
    assert reason(pearson=0.69) == "unexplained"
    assert reason(weights=MANY | {"unigram": 80.0}) == "unexplained"  # 62% of the weight
    assert reason(weights=MANY | {"previous_token": 8.0}) == "unexplained"  # 9% of it
    assert reason(weights={"unigram": 30.0, "bigram": 40.0, "topic": 30.0}) == "unexplained"


@pytest.mark.parametrize(
    ("q", "net", "expected"),
    [
        (0.05, 80.0, ("nearly", "topic saves 50 bits, but q = 0.05 where 0.01 is needed")),
        (0.001, 0.0, ("nearly", "topic saves 50 bits, but none of its keys saves more than it")),
        (0.11, 80.0, ("unexplained", "nothing helps")),
    ],
)
def test_near_labels(q: float, net: float, expected: tuple[str, str]) -> None:
    one = latent(status="abstained", q=q, net_bits=[net, 0.0, 0.0, 0.0])
    reason, detail = sorted_out([one])[0]
    assert reason == expected[0]
    assert detail.startswith(expected[1])


def test_who_is_triaged() -> None:
    latents = [
        latent(f1=0.5),  # a good label
        latent(f1=0.49),
        latent(status="abstained", f1=0.9, q=1.0),
        latent(status="too_rare", n_fit=0),  # never fires
        latent(f1=0.9, n_heldout=4),  # too little held-out text: F1 0.4 on the fit split
    ]
    assert [reason != "" for reason, _ in sorted_out(latents)] == [False, True, True, False, True]
    # Before `labeler verify` the fit split decides alone.
    assert all(reason for reason, _ in sorted_out([latents[0]], verified=False))


def test_details_name_the_figures() -> None:
    details = {name: sorted_out([one])[0][1] for name, one in MADE_FOR.items()}
    assert details["too rare"] == "fires 29 times in the fit split"
    assert details["dense"] == "fires at 10.0% of positions"
    assert details["output-side"].startswith("saves 81 net bits by the text to come, 80 by")
    assert details["faint firings"].startswith("97% of its firings are below 0.5")
    assert details["several rules"].startswith("unigram 50%, topic 30%, previous_token 20%")
    assert details["many keys"] == "F1 0.30 with 100 keys, 0.90 with all"
    # 100 firings at 10,000 positions: 10,000 * H(0.01) = 808 bits.
    assert details["unexplained"] == "unigram saves 90 of 808 bits; F1 0.30"


# -- what the reasons look at ----------------------------------------------------------------------


def test_doubles_are_those_of_a_dense_computation() -> None:
    rng = np.random.default_rng(0)
    acts = np.where(rng.random((400, 40)) < 0.1, rng.random((400, 40)), 0)
    acts[:, 7] = acts[:, 3] * 1.5
    acts[5, 7] += 1
    columns = [[(int(at), acts[at, j]) for at in np.flatnonzero(acts[:, j])] for j in range(40)]
    asked = np.array([0, 3, 7, 39])
    shares: list[float] = []
    found = find_doubles(firings_of(columns), asked, shares.append)
    assert sum(shares) == pytest.approx(1)
    unit = acts / np.linalg.norm(acts, axis=0)
    count = (acts > 0).sum(axis=0)
    for one in asked:
        more = (count > count[one]) | ((count == count[one]) & (np.arange(40) < one))
        cosine = np.where(more, unit[:, one] @ unit, 0)
        assert found.cosine[one] == pytest.approx(cosine.max(), abs=1e-6)
        assert cosine[found.other[one]] == pytest.approx(cosine.max())
    assert found.cosine[1] == 0  # not asked about


def test_faint_share_and_family_weights_by_hand() -> None:
    # Means 2 and 3: below 1 there is one firing of three; below 1.5 none of one.
    firings = firings_of([[(0, 0.5), (1, 1.5), (2, 4.0)], [(0, 3.0)], []])
    assert faint_share(firings).tolist() == pytest.approx([1 / 3, 0, 0])
    entries = pl.DataFrame(
        {
            "budget": [100, 100, 100, 16],
            "latent": [0, 0, 0, 1],
            "level": ["bigram", "unigram+topic", "topic", "topic"],
            "weight": [1.0, -2.0, 0.5, 1.0],
            "n": [10, 10, 20, 1],
        }
    )
    families, weight = family_weights(entries, 2)
    assert families == ["topic", "unigram"]
    assert weight.tolist() == [[0.25, 0], [0.75, 0]]


# -- runs ------------------------------------------------------------------------------------------

NAMES = ("token", "twin", "double", "dense", "ahead", "noise", "rare")


def planted(tokens: Tokens) -> Acts:
    """Latents of known reasons: `NAMES`."""
    rng = np.random.default_rng(5)
    n = tokens.ids.size
    after = np.full_like(tokens.ids, -1)
    after[:, :-1] = np.where(tokens.valid[:, 1:], tokens.ids[:, 1:], -1)
    chance = rng.random(n)
    fires = np.stack(
        [
            tokens.ids.ravel() == 0,
            chance < 0.06,
            chance < 0.055,
            rng.random(n) < 0.2,
            after.ravel() == 3,
            rng.random(n) < 0.03,
            np.arange(n) % 800 == 0,
        ],
        axis=1,
    )
    acts = np.where(fires, 1 + rng.random((n, 1)), 0)
    return (acts * tokens.valid.reshape(-1, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose first layer has the planted latents; invented cross-entropies."""
    out, tokens = tmp_path_factory.mktemp("triage"), tiny.tiny_tokens()
    RunConfig(model="./a model", coder="owner/coders", corpus="stdlib", ctx_len=24).save(out)
    save_tokens(tokens, out / "tokens")
    mark_done(out / "tokens" / "done.json", "made up", corpus="d" * 64)
    acts = {LAYER: planted(tokens), tiny.HOOKPOINTS[1]: tiny.planted(tokens, 0)}
    tiny.write_cache(out, tokens, acts)
    run = Run(out, quiet=True)
    steps.fit(run, ["unigram", "bigram", "topic", "next_token"])
    steps.verify(run)
    for name in (*tiny.HOOKPOINTS, "all_layers"):
        mark_done(
            out / "rewrite" / f"{name}.json",
            "made up",
            n_tokens=500,
            n_documents=5,
            ce=tiny.CE,
            recovered=tiny.RECOVERED,
            shuffled=-0.25,
        )
    return run


EXPECTED = {
    "double": "redundant",
    "dense": "dense",
    "ahead": "output-side",
    "rare": "too rare",
}


def test_planted_latents_get_their_reasons(run: Run) -> None:
    found = write_triage(run, LAYER)
    reasons = {NAMES[row[0]]: row[1] for row in found.iter_rows()}
    assert {name: reasons.get(name) for name in EXPECTED} == EXPECTED
    assert "token" not in reasons
    assert {reasons["twin"], reasons["noise"]} <= {"nearly", "unexplained"}
    path = run.out / "triage" / f"{LAYER}.parquet"
    assert pl.read_parquet(path).equals(found)
    assert not list(path.parent.glob(".*"))


def test_summary_has_the_counts(run: Run) -> None:
    content = report_content(run)
    summary = write_summary(run)
    for name in tiny.HOOKPOINTS:
        reasons = pl.read_parquet(run.out / "triage" / f"{name}.parquet")["reason"]
        counted = summary["hookpoints"][name]["triage"]
        assert counted == dict(sorted(reasons.value_counts().iter_rows()))
        shown = content["triage"]["counts"][name]
        assert {reason: n for reason, n in shown.items() if n} == counted
        assert sum(bar["count"] for bar in content["triage"]["bars"][name]) == len(reasons)


def test_examples_are_shown_by_activation_bin(run: Run) -> None:
    content = report_content(run)
    triaged = {name: write_triage(run, name) for name in tiny.HOOKPOINTS}
    shown = {one["name"]: one for one in content["triage"]["reasons"]}
    assert list(shown) == [reason.name for reason in REASONS if reason.name in shown]
    for name, reason in shown.items():
        assert len(reason["examples"]) == min(EXAMPLES, reason["count"])
        for example in reason["examples"]:
            card = example["card"]
            rows = triaged[card["hookpoint"]].filter(pl.col("latent") == card["latent"])
            assert rows.select("reason", "detail").row(0) == (name, example["detail"])
    (dense,) = shown["dense"]["examples"]
    bins = [one for one in dense["card"]["excerpts"] if one["kind"] == "bin"]
    # It fires between half of its maximum and the maximum.
    assert len(bins) >= N_BINS // 2
    assert bins[0]["high"] > bins[-1]["high"]
    html = render(content)
    assert "What stays unlabeled" in html
    assert dense["detail"] in html
    assert html.count('<article class="example">') == sum(
        len(one["examples"]) for one in shown.values()
    )


def test_the_page_compares_function_types(run: Run) -> None:
    tables = report_content(run)["type_tables"]
    assert [table["name"] for table in tables] == ["all layers", *tiny.HOOKPOINTS]
    rows = {row["type"]: row for row in tables[1]["rows"]}
    # Of the first layer's latents, the one on the next token is the only one that it covers.
    assert rows["next_token"]["coverage"] == pytest.approx(1 / 6)
    assert sum(row["wins"] for row in tables[1]["rows"]) == pytest.approx(1)
    # Of the second's five, the four planted on tokens are covered by their token.
    covered = [{row["type"]: row["coverage"] for row in table["rows"]} for table in tables]
    assert covered[2]["unigram"] == pytest.approx(4 / 5)
    assert covered[0]["unigram"] == pytest.approx((6 * covered[1]["unigram"] + 4) / 11)


def test_the_command_says_why(run: Run) -> None:
    runner = CliRunner(env={"COLUMNS": "80"})
    shown = runner.invoke(app, ["triage", "--out", str(run.out)]).output
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert f"{LAYER} {NAMES.index('double')}: cosine" in shown
    found = json.loads(
        runner.invoke(app, ["triage", LAYER, "--json", "--out", str(run.out)]).output
    )
    assert list(found) == [LAYER]
    assert found[LAYER] == count_reasons(write_triage(run, LAYER))
    assert found[LAYER]["redundant"] == 1


def test_without_a_latent_cache_the_step_is_named(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "cache")
    shown = CliRunner().invoke(app, ["triage", "--out", str(tmp_path / "copy")])
    assert isinstance(shown.exception, CacheError)
    assert "labeler cache" in str(shown.exception)
