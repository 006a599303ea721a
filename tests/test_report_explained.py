"""The page's part on explanations: its numbers are the files', and every text is escaped."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tiny_run as tiny
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from labeler.beside_run import beside, read_beside
from labeler.errors import RunError
from labeler.eval.llm.config import ExplainConfig
from labeler.eval.llm.rewrite_beside import cost_summary
from labeler.eval.rewrite import CrossEntropies
from labeler.explain_run import explain_run
from labeler.inputs import Run
from labeler.report import explained, page
from labeler.report.explained import explained_section
from labeler.report.page import number
from tests.scripted_server import Body, ScriptedServer, honest, kind_of

pytestmark = pytest.mark.slow

FIRST, SECOND = tiny.HOOKPOINTS

AUTHOR = "endpoint-scripted-model"


def answer(body: Body) -> Any:
    """Names the strongest token; nothing about the latent that fires by chance."""
    if kind_of(body) != "explain":
        return honest(body)
    lines = re.findall("^Strength: (.*)$", body["messages"][1]["content"], re.MULTILINE)
    tokens = [json.JSONDecoder().raw_decode(line)[0] for line in lines]
    if len(set(tokens)) > 4:
        return "I cannot tell."
    return f"[EXPLANATION]: the token {json.dumps(max(set(tokens), key=tokens.count))}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny run, explained; its model is made up, so that nothing was rewritten."""
    run = tiny.tiny_run(tmp_path_factory.mktemp("explained"), verified=False)
    with ScriptedServer(answer) as server:
        asked = ExplainConfig(
            llm_base_url=server.url, examples=10, windows=40, window=8, llm_timeout=5.0
        )
        beside(run, explain_run(run, asked))
    return run


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    shutil.copytree(made.out, tmp_path / "run")
    return Run(tmp_path / "run", quiet=True)


def rendered(authors: list[dict[str, Any]], shown: frozenset[str] = frozenset()) -> str:
    """The section, filled in as the page is."""
    environment = Environment(
        loader=FileSystemLoader(Path(page.__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": number, "percent": page.percent, "signed": page.signed}
    template = environment.from_string(
        '{% import "explained.html.j2" as part with context %}'
        "{{ part.explained(authors, shown, command) }}"
    )
    return template.render(authors=authors, shown=shown, command="labeler explain --out X")


def plain(html: str) -> str:
    """Words of a page, tags left out."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def with_costs(run: Run) -> dict[str, dict[str, Any]]:
    """Put cross-entropies into the file: of the second layer too noisy ones."""
    names = ["coder", *explained.STAND_INS]
    rng = np.random.default_rng(0)
    total = 20 + rng.random((6, len(names)))
    total[:, names.index("mean")] = 23
    clear = cost_summary(CrossEntropies(names, total, np.full(6, 10.0)), 0)
    total[:, names.index("mean")] = total[:, 0] + [1, -2, 1, -1, 1, -1]
    unclear = cost_summary(CrossEntropies(names, total, np.full(6, 10.0)), 0)
    path = run.out / "explain" / AUTHOR / "beside.json"
    found = json.loads(path.read_text())
    costs = {FIRST: {"n_latents": 5, **clear}, SECOND: {"n_latents": 4, **unclear}}
    for name, one in costs.items():
        found["hookpoints"][name]["rewritten"] = {"all": one}
    path.write_text(json.dumps(found))
    return costs


def test_a_run_without_explanations_has_no_section(run: Run) -> None:
    shutil.rmtree(run.out / "explain")
    assert explained_section(run) == []


def test_tests_are_those_of_the_file(run: Run) -> None:
    (author,) = explained_section(run)
    done = json.loads((run.out / "explain" / AUTHOR / "done.json").read_text())["hookpoints"]
    assert author["name"] == "endpoint:scripted/model"
    assert author["n_explained"] < author["n_latents"] == 10
    assert author["failures"] == {"no explanation": 10 - author["n_explained"]}
    text = plain(rendered([author]))
    assert f"Explained: {author['n_explained']} of 10 latents; failed: no explanation" in text
    for name in tiny.HOOKPOINTS:
        for wanted in done[name]["tests"].values():
            counts = [f"{wanted[key]:,}" for key in ("n_latents", "n", "failed")]
            rates = [number(wanted[key]) for key in ("own", "control", "difference")]
            bounds = f"[{number(wanted['low'])}, {number(wanted['high'])}]"
            assert " ".join([name, *counts, *rates, bounds]) in text
    assert len(author["tests"]) == len(done[FIRST]["tests"]) == 4


def test_rule_and_explanation_side_by_side(run: Run) -> None:
    (author,) = explained_section(run)
    found = read_beside(run.out / "explain" / AUTHOR)["hookpoints"]
    text = plain(rendered([author]))
    for name in tiny.HOOKPOINTS:
        for group, measures in (("both", ("f1", "precision", "pearson")), ("all", ("f1",))):
            means = found[name]["means"][group]
            stands = ["rule", "explanation", "difference", "rule_control", "control"]
            cells = []
            for stand in stands if group == "both" else [*stands[:2], *stands[3:]]:
                for measure in measures[:1]:
                    one = means[stand][measure]
                    cells.append(
                        f"{number(one['value'])} [{number(one['low'])}, {number(one['high'])}]"
                    )
            n = means["rule"]["f1"]["n"]
            assert " ".join([name, str(n), *cells]) in text
    # The latent that nobody could explain fires, and is in the second table alone.
    assert found[FIRST]["means"]["all"]["n_firing"] > found[FIRST]["means"]["both"]["n_firing"]
    assert "All latents that were asked about" in text
    assert "not rewritten: model folder" in text
    assert author["beside"]["costs"] is None
    assert "Running them in the layer" not in text


def test_costs(run: Run) -> None:
    costs = with_costs(run)
    (author,) = explained_section(run)
    rows = {row["name"]: row["cells"] for row in author["beside"]["costs"]["rows"]}
    assert list(rows)[:3] == ["rule", "explanation", "explanation scaled"]
    text = plain(rendered([author]))
    for name, one in (("rule", "rule"), ("control", "control"), ("rule control", "rule_control")):
        cells = []
        for hookpoint in tiny.HOOKPOINTS:
            above = costs[hookpoint]["above_coder"][one]
            low, high = (number(1000 * above[key]) for key in ("low", "high"))
            cells.append(f"{number(1000 * above['value'])} [{low}, {high}]")
            if hookpoint == FIRST:
                share = costs[FIRST]["recovered"][one]
                bounds = f"[{number(share['low'])}, {number(share['high'])}]"
                cells.append(f"recovered {number(share['value'])} {bounds}")
        assert f"{name} {explained.STAND_INS[one]} {' '.join(cells)}" in text
    assert costs[SECOND]["recovered"] is None
    assert text.count("recovered ") == 1 + len(explained.STAND_INS) - 1
    assert f"{FIRST} 5 latents, 60 tokens" in text


def test_where_they_differ(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair is a rule that an explanation of one token cannot be."""
    (author,) = explained_section(run)
    frame = pl.read_parquet(run.out / "explain" / AUTHOR / "beside.parquet")
    f1 = {(row["hookpoint"], row["latent"], row["stand"]): row["f1"] for row in frame.to_dicts()}
    (rule,) = [one for one in author["pairs"] if one["better"] == "rule"]
    gaps = []
    for one in rule["pairs"]:
        key = one["hookpoint"], one["latent"]
        assert one["f1"]["rule"] == f1[*key, "rule"]
        assert one["f1"]["explanation"] == f1[*key, "explanation"]
        assert one["n_firings"] >= explained.LEAST
        gaps.append(one["f1"]["rule"] - one["f1"]["explanation"])
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] > 0
    assert {one["latent"] for one in rule["pairs"]} & {tiny.PAIR, tiny.BREAK}
    shown = f"{rule['pairs'][0]['hookpoint']}-{rule['pairs'][0]['latent']}"
    html = rendered([author], frozenset([shown]))
    assert html.count('href="#') == 1
    assert f'href="#{shown}"' in html
    monkeypatch.setattr(explained, "DIFFER", 1)
    assert all(len(one["pairs"]) == 1 for one in explained_section(run)[0]["pairs"])


def test_hostile_explanations_are_text(run: Run) -> None:
    """A server that says anything, about tokens that are anything, under any name."""
    folder = run.out / "explain" / AUTHOR
    hostile = f"{tiny.HOSTILE}{tiny.ESCAPE}\u2028</td><img src=x>"
    lines = (folder / "explanations.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    rows = [json.loads(line) | {"text": hostile} for line in lines]
    made = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "explanations.jsonl").write_text(made, encoding="utf-8")
    done = json.loads((folder / "done.json").read_text())
    done["author"] = hostile
    done["hookpoints"][FIRST]["failures"][hostile] = 1
    (folder / "done.json").write_text(json.dumps(done))
    html = rendered(explained_section(run))
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
    for raw in ("<script", "<img", "\x1b", "\u202e", "\u2028"):
        assert raw not in html


def test_other_labels_than_were_compared(run: Run) -> None:
    marker = run.out / "labels" / SECOND / "done.json"
    made = json.loads(marker.read_text()) | {"key": "another"}
    marker.write_text(json.dumps(made))
    (author,) = explained_section(run)
    assert (author["beside"], author["stale"], author["pairs"]) == (None, True, [])
    text = plain(rendered([author]))
    assert "compared with other labels than the present ones" in text
    assert "side by side" not in text
    (run.out / "explain" / AUTHOR / "beside.json").unlink()
    text = plain(rendered(explained_section(run)))
    assert "were not compared: labeler explain --out X does" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("done.json", "{"),
        ("beside.json", "{}"),
        ("beside.parquet", "PAR1 no"),
        ("explanations.jsonl", "[]\n"),
    ],
)
def test_damaged_files_are_named(run: Run, name: str, content: str) -> None:
    (run.out / "explain" / AUTHOR / name).write_text(content)
    with pytest.raises(RunError, match=f"{name}.*`labeler explain` again"):
        explained_section(run)
