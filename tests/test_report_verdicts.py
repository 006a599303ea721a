"""The page and summary.json on labels that were tried: numbers are the files', text is escaped."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tiny_run as tiny

from labeler.errors import RunError
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.report import rewriting
from labeler.report.content import report_content
from labeler.report.evidence import UNTRIED, read_tried
from labeler.report.page import number, render
from labeler.report.rewriting import fraction_charts, fraction_panel, stand_ins
from labeler.report.verdicts import verdicts_section
from labeler.summary import write_summary

FIRST, SECOND = tiny.HOOKPOINTS


@pytest.fixture(scope="module")
def untried(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny.tiny_run(tmp_path_factory.mktemp("untried"))


@pytest.fixture(scope="module")
def run(untried: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("tried") / "run"
    shutil.copytree(untried.out, out)
    run = Run(out, quiet=True)
    tiny.try_out(run)
    return run


@pytest.fixture(scope="module")
def content(run: Run) -> dict[str, Any]:
    return report_content(run)


@pytest.fixture(scope="module")
def html(content: dict[str, Any]) -> str:
    return render(content)


def facts_of(run: Run, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.out / "verify" / name / "tests.json").read_text())
    return found


def card_of(content: dict[str, Any], latent: int, layer: int = 0) -> dict[str, Any]:
    (found,) = [one for one in content["layers"][layer]["cards"] if one["card"]["latent"] == latent]
    card: dict[str, Any] = found["card"]
    return card


def section(html: str, heading: str) -> str:
    """Text of a part of the page, from its heading to the next one, tags left out."""
    part = html[html.index(f"<h3>{heading}</h3>") :]
    part = part[: part.index("<h3", 5)] if "<h3" in part[5:] else part
    return " ".join(re.sub(r"<[^>]+>", " ", part).split())


def test_counts_and_bars_are_the_files(run: Run, content: dict[str, Any], html: str) -> None:
    found = content["verdicts"]
    assert facts_of(run, FIRST)["verdicts"] == dict.fromkeys(found["total"], 1)
    assert [row["verdicts"] for row in found["rows"]] == [
        facts_of(run, name)["verdicts"] for name in tiny.HOOKPOINTS
    ]
    assert found["total"] == {"verified": 2, "weak": 1, "refuted": 2, "untestable": 1}
    assert (found["n_tested"], found["n_labeled"]) == (6, 8)
    assert [(bar["name"], bar["width"]) for bar in found["bars"][SECOND]] == [
        ("verified", 50.0),
        ("refuted", 50.0),
    ]
    # Not by colour alone: stripes, and words where there is room.
    assert html.count('class="stripes refuted"') == 2 + 1
    assert "verified 50%" in html
    assert "<b>2</b> verified, <b>1</b> weak, <b>2</b> refuted, <b>1</b> untestable" in html


def test_false_actives_stand_beside_the_verdicts(html: str) -> None:
    assert html.count("<td>0.8750</td><td>0.8</td><td>1.5</td>") == len(tiny.HOOKPOINTS)


def test_tests_stand_beside_their_controls(run: Run, content: dict[str, Any], html: str) -> None:
    groups = {one["name"]: one for one in content["verdicts"]["tests"]}
    assert list(groups)[:4] == ["heldout", "sufficiency", "necessity", "unseen:subject"]
    shown = section(html, "The tests, beside their controls")
    for layer in tiny.HOOKPOINTS:
        for name, wanted in facts_of(run, layer)["tests"].items():
            if name == tiny.ENDPOINT:
                continue
            one = groups[name]["layers"][layer]
            for key in ("n_labels", "n", "failed", "own", "control", "difference", "low", "high"):
                assert one[key] == wanted[key]
            bounds = f"[{number(wanted['low'])}, {number(wanted['high'])}]"
            rates = [number(wanted[key]) for key in ("own", "control", "difference")]
            counts = [str(wanted[key]) for key in ("n_labels", "n", "failed")]
            assert f"{layer} {' '.join([*counts, *rates])} {bounds}" in shown
    assert groups["sufficiency"]["layers"][FIRST]["failed"] == 2
    assert all(one["means"] for one in groups.values())


def test_cards_carry_verdict_and_evidence(content: dict[str, Any], html: str) -> None:
    kinds = [
        card_of(content, latent)["verdict"]["verdict"]
        for latent in (tiny.TOKEN, tiny.PAIR, tiny.BREAK, tiny.LOOSE)
    ]
    assert kinds == ["verified", "weak", "refuted", "untestable"]
    refuted = card_of(content, tiny.BREAK)["verdict"]
    assert refuted["reason"].startswith("F1 0.30 [0.25, 0.50] on held-out text, where its fit")
    assert refuted["claimed"] == 0.9
    by_test = {one["test"]: one for one in refuted["evidence"]}
    assert len(by_test) == 5
    assert (by_test["necessity"]["n"], by_test["necessity"]["failed"]) == (12, 2)
    assert by_test["necessity"]["control"] == pytest.approx(1 / 12)
    card = html[html.index(f'id="{FIRST}-{tiny.BREAK}"') :]
    card = card[: card.index("</article>")]
    assert 'data-verdict="refuted"' in card
    assert refuted["reason"] in card
    assert "With 100 keys; its fit claims F1 0.90." in card
    assert "<td>0.30</td><td>0.05</td>" in card
    # Nothing was fitted to it, nothing is tried.
    assert card_of(content, tiny.NOISE)["verdict"] is None


def test_labels_that_were_not_drawn_say_so(content: dict[str, Any], html: str) -> None:
    found = card_of(content, tiny.PAIR, layer=1)["verdict"]
    assert (found["verdict"], found["evidence"]) == (UNTRIED, [])
    assert "not among the 2 labels of this layer drawn for the tests" in html


def test_hostile_names_of_generators_are_text(html: str) -> None:
    assert "unseen:endpoint:&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e" in html
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_scores_of_others_and_further_figures(run: Run, content: dict[str, Any]) -> None:
    scores = {one["name"]: one for one in content["verdicts"]["scores"]}
    assert list(scores) == ["detection", "f1"]
    wanted = facts_of(run, SECOND)["standard"]["detection"]
    assert scores["detection"]["layers"][SECOND]["n_labels"] == wanted["n_latents"]
    assert scores["detection"]["layers"][SECOND]["low"] == wanted["low"]
    assert scores["f1"]["means"].startswith("Ours")
    assert content["verdicts"]["further"] == []


def test_ablated_text_and_the_seed_criterion(run: Run) -> None:
    tried = read_tried(run.out, FIRST)
    assert tried is not None
    half = {"n": 10, "share": 0.5, "low": 0.2, "high": 0.8}
    none = {"n": 0, "share": None, "low": None, "high": None}
    pooled = {"own": 0.8, "control": 0.2, "difference": 0.6, "low": 0.5, "high": 0.7}
    facts = {
        **tried.facts,
        "ablation": {"n_latents": 9, "n": 36, "same": pooled, "spearman": pooled},
        "seed_protocol": {
            "n_latents": 10,
            "passes": {"own": {**half, "share": 0.9}, "random": half},
            "fires": {"own": half, "random": half},
            "beats": {"own": half, "random": none},
            "probes": {},
        },
    }
    found = verdicts_section({FIRST: type(tried)(facts, tried.verdicts, tried.evidence)})
    assert found is not None
    groups = {one["name"]: one["layers"][FIRST] for one in found["further"]}
    assert (groups["same token"]["n_labels"], groups["same token"]["low"]) == (9, 0.5)
    assert groups["seed criterion"]["difference"] == pytest.approx(0.4)
    assert groups["seed criterion, with a control"]["difference"] is None


def test_a_run_without_verdicts_says_how_to_get_them(untried: Run, tmp_path: Path) -> None:
    content = report_content(untried)
    assert content["verdicts"] is None
    page = render(content)
    assert f"labeler verify --out {untried.out} --all" in page
    assert 'class="verdict"' not in page
    assert 'name="verdict"' not in page
    for heading in ("Some of the latents replaced", "The labels that cost most"):
        assert heading not in page


def test_some_hookpoints_tried(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    (tmp_path / "run" / "verify" / SECOND / "tests.json").unlink()
    content = report_content(Run(tmp_path / "run", quiet=True))
    assert content["verdicts"]["untried"] == [SECOND]
    assert list(content["verdicts"]["bars"]) == [FIRST]
    assert f"not tried: {SECOND}" in render(content)


@pytest.mark.parametrize("name", ["verdicts.parquet", "evidence.parquet"])
def test_damaged_files_are_named(run: Run, tmp_path: Path, name: str) -> None:
    shutil.copytree(run.out / "verify", tmp_path / "verify")
    path = tmp_path / "verify" / FIRST / name
    path.write_bytes(b"PAR1 no")
    with pytest.raises(RunError, match=f"{name}: cannot be read .* `labeler verify --all` again"):
        read_tried(tmp_path, FIRST)
    path.unlink()
    with pytest.raises(RunError, match=name):
        read_tried(tmp_path, FIRST)
    pl.DataFrame({"latent": [0]}).write_parquet(path)
    with pytest.raises(RunError, match=name):
        read_tried(tmp_path, FIRST)


def test_curves_by_fraction(run: Run, content: dict[str, Any], html: str) -> None:
    groups = {one["kind"]: one for one in content["fractions"]}
    assert list(groups) == ["ranking", "transform", "paper"]
    assert [one["name"] for one in groups["ranking"]["panels"]] == [
        *tiny.HOOKPOINTS,
        "all layers",
    ]
    file = json.loads((run.out / "rewrite" / f"{FIRST}-curves.json").read_text())
    lines = {one["name"]: one["points"] for one in groups["ranking"]["panels"][0]["lines"]}
    assert list(lines) == ["best labels first", "at random"]
    for name, number_of in (("best labels first", 0), ("at random", 1)):
        for one, wanted in zip(lines[name], file["curves"][number_of]["points"], strict=True):
            for key in ("fraction", "recovered", "low", "high"):
                assert one[key] == wanted[key]
    ends = {one["name"]: one["cells"][0]["recovered"] for one in groups["transform"]["ends"]}
    assert ends == {
        "as predicted": file["curves"][0]["points"][-1]["recovered"],
        "re-TopK": file["curves"][2]["points"][-1]["recovered"],
        "as predicted, unlimited keys": file["curves"][3]["points"][-1]["recovered"],
    }
    assert number(ends["re-TopK"], 3) in section(html, "What is done to the predictions")
    # As numbers for those who cannot see the lines.
    assert f"{number(lines['at random'][0]['recovered'], 3)} at 1.0%" in html


def test_panel_by_hand() -> None:
    points = [
        {"fraction": 0.1, "recovered": 1.0, "low": 0.9, "high": 1.05},
        {"fraction": 0.5, "recovered": None, "low": None, "high": None},
        {"fraction": 1.0, "recovered": -7.0, "low": -9.0, "high": -6.0},
    ]
    panel = fraction_panel({"a": points}, {"a": "c0"})
    (line,) = panel["lines"]
    assert [one["text"] for one in panel["x_ticks"]] == ["10%", "100%"]
    assert [one["recovered"] for one in line["points"]] == [1.0, -7.0]
    assert line["points"][0]["y"] == panel["references"][1]
    # What lies below the axis stays at its edge, interval and all.
    assert panel["bottom"] - 4 < line["points"][1]["y"] <= panel["bottom"]
    assert fraction_charts({"h": None}) == []


def test_stand_ins_that_were_measured_somewhere() -> None:
    rows = stand_ins(
        [{"ce": {"base": 2.0, "new_one": 3.0}}, {"ce": {"base": 2.5}, "recovered_by_variant": {}}]
    )
    assert [(row["name"], [cell["ce"] for cell in row["cells"]]) for row in rows] == [
        ("base", [2.0, 2.5]),
        ("new one", [3.0, None]),
    ]


def test_labels_that_cost_most(run: Run, content: dict[str, Any], html: str) -> None:
    found = content["dearest"]
    # The latent without a label costs more, but has no label to blame.
    assert [(one["latent"], one["hookpoint"]) for one in found[:4]] == [
        (tiny.BREAK, FIRST),
        (tiny.BREAK, SECOND),
        (tiny.TOKEN, FIRST),
        (tiny.TOKEN, SECOND),
    ]
    costs = [one["cost"] for one in found]
    assert costs == sorted(costs, reverse=True)
    assert not any(one["latent"] == tiny.NOISE for one in found)
    assert [one["exact"] for one in found[:3]] == [False, False, True]
    assert (found[0]["verdict"], found[-1]["verdict"]) == ("refuted", None)
    labels = LabelSet.load(label_folder(run.out, FIRST))
    assert labels.labeled[found[0]["latent"]]
    shown = section(html, "The labels that cost most")
    assert re.search(rf"{FIRST} {tiny.BREAK} fires on .* 4\.700 estimated 1\.00 refuted", shown)
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert f"{FIRST}-{tiny.BREAK}" in targets
    assert targets <= set(re.findall(r'id="([^"]+)"', html))


def test_no_more_labels_than_fit_are_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "DEAREST", 2)
    found = report_content(run)["dearest"]
    assert [(one["latent"], one["hookpoint"]) for one in found] == [
        (tiny.BREAK, FIRST),
        (tiny.BREAK, SECOND),
    ]


def test_summary_has_verdicts_and_tests(run: Run, untried: Run, tmp_path: Path) -> None:
    for one in (run, untried):
        (one.out / "timing.json").write_text("{}")
        report_content(one)  # the triage that the summary counts
    found = write_summary(run)
    entry = found["hookpoints"][FIRST]
    facts = facts_of(run, FIRST)
    assert entry["verdicts"] == facts["verdicts"]
    assert entry["n_tested"] == sum(entry["verdicts"].values()) == 4
    assert set(entry["tests"]) == set(facts["tests"])
    one, wanted = entry["tests"]["necessity"], facts["tests"]["necessity"]
    assert one["interval"] == [wanted["low"], wanted["high"]]
    for key in ("n_labels", "n", "failed", "own", "control", "difference"):
        assert one[key] == wanted[key]
    assert entry["standard"] == facts["standard"]
    assert entry["actives"] == facts["actives"]
    assert "ablation" not in entry
    ce = {name: value for name, value in tiny.CE.items() if not name.startswith("labels_")}
    assert entry["ce"] == {**ce, "labels": tiny.CE["labels_unlimited"]}
    assert not {"verdicts", "n_tested", "tests", "standard"} & set(
        write_summary(untried)["hookpoints"][FIRST]
    )


def test_evidence_is_read_as_written(run: Run) -> None:
    tried = read_tried(run.out, FIRST)
    assert tried is not None
    loose = tried.of(tiny.LOOSE)
    assert loose["verdict"] == "untestable"
    assert np.isnan(loose["evidence"][0]["control"])
