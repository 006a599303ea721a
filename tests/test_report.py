"""The HTML report: its content is right, its page is safe, whole and the same every time."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tiny_run as tiny

from labeler.errors import RunError
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.report.cards import read_scores
from labeler.report.charts import f1_panel, rewrite_chart, stacked_bars, tones_of
from labeler.report.choose import Choice, choose
from labeler.report.content import report_content
from labeler.report.contexts import N_BINS, Responses, Sample, excerpts
from labeler.report.page import render, write_report

VOID = {"meta", "br", "input"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = tiny.tiny_run(tmp_path_factory.mktemp("report"))
    tiny.try_out(run)
    return run


@pytest.fixture(scope="module")
def content(run: Run) -> dict[str, Any]:
    return report_content(run)


@pytest.fixture(scope="module")
def html(content: dict[str, Any]) -> str:
    return render(content)


def card_of(content: dict[str, Any], latent: int, layer: int = 0) -> dict[str, Any]:
    found = [one for one in content["layers"][layer]["cards"] if one["card"]["latent"] == latent]
    assert len(found) == 1, f"latent {latent} has {len(found)} cards"
    return found[0]["card"]


def test_rows_are_the_files_figures(run: Run, content: dict[str, Any]) -> None:
    assert [row["name"] for row in content["rows"]] == [*tiny.HOOKPOINTS, "all layers"]
    row, whole = content["rows"][0], content["rows"][-1]
    counted = json.loads((run.out / "verify" / row["name"] / "explained.json").read_text())
    # Of 7 latents, one is too rare, one dead; the one that fires by chance abstains.
    assert (row["n_latents"], row["n_live"], row["n_labeled"], row["n_abstained"]) == (7, 5, 4, 1)
    for budget in ("16", "100", "unlimited"):
        assert row["explained"][budget] == counted["explained"][budget]["0.7"]
    assert row["explained"]["100"]["share"] == pytest.approx(4 / 5)
    assert row["recovered"] == tiny.RECOVERED
    cells = {one["name"]: one["cells"][0] for one in content["stand_ins"]}
    assert cells == {
        name.replace("_", " "): {"ce": ce, "recovered": tiny.BY_VARIANT[name]}
        for name, ce in tiny.CE.items()
    }
    assert (whole["n_latents"], whole["n_live"]) == (14, 10)
    shares = [one["explained"]["100"]["share"] for one in content["rows"][:2]]
    assert whole["explained"]["100"]["share"] == pytest.approx(sum(shares) / 2)


def test_bars_count_every_latent(content: dict[str, Any]) -> None:
    bars = content["bars"][tiny.HOOKPOINTS[0]]
    counts = {bar["name"]: bar["count"] for bar in bars}
    assert counts == {"n-grams": 4, "abstained": 1, "too rare": 2}
    assert bars[-1]["start"] + bars[-1]["width"] == pytest.approx(100)
    assert {one["name"] for one in content["families"]} == set(counts)
    assert content["types"] == ["unigram", "bigram", "abstained", "too rare"]


def test_card_has_scores_keys_and_real_text(run: Run, content: dict[str, Any]) -> None:
    card = card_of(content, tiny.TOKEN)
    scores = read_scores(run.out, tiny.HOOKPOINTS[0])
    assert scores is not None
    assert card["scores"]["f1"] == scores["f1"][tiny.TOKEN]
    assert card["n_documents"] == len(np.unique(run.tokens.heldout.doc))
    first = card["key_rows"][0]
    assert [tuple(part) for part in first["text"]] == [(tiny.HOSTILE, True)]
    n = int((run.tokens.fit.ids == 0)[run.tokens.fit.valid].sum())
    assert first["firings"] <= n
    assert first["fires"]
    for excerpt in card["excerpts"]:
        (focus,) = [piece for piece in excerpt["pieces"] if piece["focus"]]
        assert focus["text"] == tiny.HOSTILE
        assert focus["act"] == excerpt["act"] > 0
        assert excerpt["low"] <= excerpt["act"] <= excerpt["high"] + 1e-5
        assert excerpt["called"]


def test_keys_of_a_card_are_the_labels_heaviest(run: Run, content: dict[str, Any]) -> None:
    """Those that say "fires" first, each kind by what it carries."""
    labels = LabelSet.load(label_folder(run.out, tiny.HOOKPOINTS[0]))
    for latent in (tiny.TOKEN, tiny.BREAK, tiny.PAIR, tiny.LOOSE):
        mine = labels.entries.filter((pl.col("budget") == 100) & (pl.col("latent") == latent))
        threshold = labels.predictor(100).threshold[latent]
        wanted = [
            (row["value"] >= threshold, abs(row["weight"]) * row["n"], row["weight"], row["level"])
            for row in mine.iter_rows(named=True)
        ]
        rows = card_of(content, latent)["key_rows"]
        assert [
            (row["fires"], abs(row["weight"]) * row["n"], row["weight"], row["type"])
            for row in rows
        ] == sorted(wanted, reverse=True)[: len(rows)]
        assert len(rows) == min(10, len(wanted))


def test_excerpt_text_is_the_documents(run: Run, content: dict[str, Any]) -> None:
    heldout = run.tokens.heldout
    texts = {
        name: "".join(
            heldout.vocab[token].replace("\n", "↵").replace(tiny.ESCAPE, "\\x1b[31m\\u202e")
            for token in heldout.ids[heldout.doc == number][heldout.valid[heldout.doc == number]]
        )
        for number, name in enumerate(heldout.doc_ids)
    }
    for layer in content["layers"]:
        for one in layer["cards"]:
            for excerpt in one["card"]["excerpts"]:
                shown = "".join(piece["lead"] + piece["text"] for piece in excerpt["pieces"])
                assert shown in texts[excerpt["document"]]


def test_false_alarms_and_missed_firings_of_a_loose_label(content: dict[str, Any]) -> None:
    kinds = {one["kind"]: one for one in card_of(content, tiny.LOOSE)["excerpts"]}
    assert kinds["false"]["act"] == 0
    assert kinds["false"]["called"]
    assert "missed" not in {one["kind"] for one in card_of(content, tiny.TOKEN)["excerpts"]}


def test_unlabeled_latents_say_why(content: dict[str, Any], html: str) -> None:
    noise = card_of(content, tiny.NOISE)
    assert noise["status"] == "abstained"
    assert noise["scores"] is None
    assert not noise["key_rows"]
    assert len(noise["candidates"]) == 3
    assert all(one["why"] for one in noise["candidates"])
    assert {one["type"] for one in noise["candidates"]} <= {*tiny.FUNCTIONS}
    assert {one["kind"] for one in noise["excerpts"]} == {"bin"}
    assert not any(one["called"] for one in noise["excerpts"])
    assert noise["candidates"][0]["why"] in html
    rare = [one for one in content["layers"][1]["cards"] if one["card"]["status"] == "too_rare"]
    assert rare[0]["card"]["latent"] == tiny.RARE
    assert "30 are needed" in html


def test_every_hookpoint_has_a_section(html: str) -> None:
    for name in tiny.HOOKPOINTS:
        assert f'<section class="layer" id="{name}">' in html
        assert f'href="#{name}"' in html


def test_hostile_tokens_are_text(html: str) -> None:
    body = html.split("</head>")[1]
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert 'onmouseover="x' not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert body.count("<script>") == 1


def test_page_asks_for_nothing(html: str) -> None:
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?(?!#)""", html.replace('href="#', ""))
    assert not re.search(r"https?:|url\(|@import|//[a-z]+\.", html)
    assert "default-src 'none'" in html


class Balance(HTMLParser):
    """Collects ids and unbalanced tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")


def test_page_is_well_formed(html: str) -> None:
    balance = Balance()
    balance.feed(html)
    assert balance.faults == []
    assert balance.open == []
    assert len(balance.ids) == len(set(balance.ids))


def test_written_whole_and_the_same_every_time(run: Run, html: str) -> None:
    path = write_report(run)
    assert path == run.out / "report.html"
    assert path.read_text(encoding="utf-8") == html
    write_report(Run(run.out, quiet=True))
    assert path.read_text(encoding="utf-8") == html
    assert not list(run.out.glob(".*.tmp"))


def test_commands_make_the_run_again(content: dict[str, Any], run: Run) -> None:
    words = shlex.split(content["commands"][0])
    assert words[:2] == ["labeler", "run"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--model"] == "./a model"
    # What was asked for: a correction that abstains is no function type of the run.
    assert options["--functions"] == ",".join(tiny.FUNCTIONS)
    assert set(options["--corrections"].split(",")) >= {"unigram+topic"}
    assert options["--out"] == str(run.out)
    heldout = run.tokens.heldout
    five = np.unique(heldout.doc)[:5]
    assert int(options["--rewrite-tokens"]) == heldout.length[np.isin(heldout.doc, five)].sum()


def test_missing_step_is_named(tmp_path: Path) -> None:
    run = tiny.tiny_run(tmp_path, verified=False)
    with pytest.raises(RunError, match=r"labeler (verify|rewrite)"):
        write_report(run)
    assert not (tmp_path / "report.html").exists()


def test_one_hookpoint_has_no_row_of_all(run: Run, html: str) -> None:
    config = replace(run.config, hookpoints=("blocks.0.hook_mlp_out",))
    alone = report_content(Run(run.out, config, quiet=True))
    assert [row["name"] for row in alone["rows"]] == [tiny.HOOKPOINTS[0]]
    assert "--hookpoint" in alone["commands"][0]
    page = render(alone)
    assert "all layers</th>" not in page
    assert tiny.HOOKPOINTS[1] not in page
    assert "all layers</th>" in html


def frames(status: list[str], f1: list[float], n: int = 50) -> tuple[pl.DataFrame, pl.DataFrame]:
    latent = list(range(len(status)))
    kinds = ["unigram" if index % 3 else "topic" for index in latent]
    labels = pl.DataFrame(
        {"latent": latent, "status": status, "function_type": kinds, "n_fit": [n] * len(latent)}
    )
    scores = pl.DataFrame({"latent": latent, "f1": f1, "n_heldout": [n] * len(latent)})
    return labels, scores


def test_choose_takes_best_median_worst_and_unlabeled() -> None:
    n = 101
    labels, scores = frames(
        ["labeled"] * n + ["abstained"] * 3 + ["too_rare"] * 2,
        [1 - index / n for index in range(n)] + [0.0] * 5,
    )
    chosen = choose(labels, scores, most=15, seed=0)
    why = {choice.latent: choice.why for choice in chosen}
    assert (why[0], why[50], why[100]) == ("best F1", "median F1", "worst F1")
    assert [choice.latent for choice in chosen if choice.latent < n] == sorted(
        latent for latent in why if latent < n
    )
    assert sum(name == "abstained" for name in why.values()) >= 1
    assert sum(name == "too rare" for name in why.values()) == 1
    assert sum(name == "F1 below 0.3" for name in why.values()) == 2
    assert {"median unigram", "median topic"} & set(why.values())
    assert len(chosen) <= 15
    assert chosen == choose(labels, scores, most=15, seed=0)
    assert len(choose(labels, scores, most=4, seed=0)) == 4


def test_choose_takes_a_refuted_and_a_weak_one() -> None:
    n = 101
    labels, scores = frames(["labeled"] * n, [1 - index / n for index in range(n)])
    kinds = ["verified"] * n
    kinds[40], kinds[60], kinds[61] = "refuted", "weak", "weak"
    verdicts = pl.DataFrame({"latent": list(range(n)), "verdict": kinds})
    for most in (4, 15):
        why = {one.latent: one.why for one in choose(labels, scores, most, 0, verdicts)}
        assert why[40] == "refuted, drawn at random"
        assert [why.get(60), why.get(61)].count("weak, drawn at random") == 1
        assert (why[0], why[50], len(why) <= most) == ("best F1", "median F1", True)
    same = verdicts.with_columns(pl.lit("verified").alias("verdict"))
    assert choose(labels, scores, 15, 0, same) == choose(labels, scores, 15, 0)


def test_choose_from_nothing_labeled() -> None:
    labels, scores = frames(["too_rare"] * 2, [0.0, 0.0])
    assert [choice.why for choice in choose(labels, scores, most=15, seed=0)] == ["too rare"]
    labels, scores = frames(["labeled"], [0.4])
    assert choose(labels, scores, most=15, seed=0) == [Choice(0, "best F1")]


def test_one_excerpt_from_each_bin(run: Run) -> None:
    tokens = run.tokens.heldout
    # Firings all over the range: 10 of each strength.
    valid = np.flatnonzero(tokens.valid.ravel())[:50]
    act = np.zeros((1, tokens.ids.size), dtype=np.float32)
    act[0, valid] = np.repeat([0.5, 1.5, 2.5, 3.5, 5.0], 10)
    called = act >= 2
    called[0, np.flatnonzero(tokens.valid.ravel())[60]] = True
    sample = Sample(tokens, np.arange(tokens.n_ctx), {})
    found = excerpts(sample, Responses(act, act, called), 0, labeled=True, seed=(0, 0))
    bins = [one for one in found if one["kind"] == "bin"]
    assert [one["act"] for one in bins] == [5.0, 3.5, 2.5, 1.5, 0.5]
    assert len(bins) == N_BINS
    assert [(one["n"], one["n_called"]) for one in bins] == [(10, 10)] * 3 + [(10, 0)] * 2
    assert [(one["kind"], one["n"]) for one in found[N_BINS:]] == [("false", 1), ("missed", 20)]


def test_charts_by_hand() -> None:
    bars = stacked_bars({"h": {"unigram": 3, "abstained": 1}}, tones_of(["unigram"]))
    assert [(bar["start"], bar["width"], bar["tone"]) for bar in bars["h"]] == [
        (0.0, 75.0, "t0"),
        (75.0, 25.0, "abstained"),
    ]
    panel = f1_panel({"16": np.array([0.2, 0.7, 0.9])}, n_live=4, level=0.7)
    assert panel["lines"][0]["share"] == 0.5
    low = {"value": 0.0, "low": -0.1, "high": 0.1}
    chart = rewrite_chart(
        {f"l{i}": dict.fromkeys(("16", "100", "unlimited"), low) for i in range(4)}, ""
    )
    labels = sorted(line["label_y"] for line in chart["lines"])
    assert min(np.diff(labels)) >= 17 - 1e-6
    assert chart["top"] <= labels[0]
    assert labels[-1] <= chart["bottom"]
    assert chart["lines"][0]["points"][0]["y"] == chart["references"][0]["y"]
