"""The page of an audit and the report's part on audits: the table's numbers, text escaped."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from labeler.errors import RunError
from labeler.eval.audit.ground import Ground, ground_of_contexts
from labeler.eval.audit.rows import SCHEMA
from labeler.eval.audit.verdicts import VERDICTS
from labeler.explanations import Context
from labeler.inputs import Run
from labeler.report import audit as page
from labeler.report.audit import (
    MEANS,
    audit_content,
    beside,
    picked_rows,
    rule_means,
    verdict_table,
)
from labeler.report.audit_contexts import firing_contexts
from labeler.report.audit_page import render_audit, write_audit_page
from labeler.report.audit_section import audit_section
from labeler.report.audit_text import prose, short_line

SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = '" onmouseover="alert(2)" x="'
ODD = "a\u202eb\x1b[31mc\u200bd\x00e"


def row(latent: int, verdict: str, **values: Any) -> dict[str, Any]:
    """A row of audit.parquet; nothing measured unless `values` say so."""
    return {
        **dict.fromkeys(SCHEMA),
        "hookpoint": "layers.1.mlp",
        "latent": latent,
        "explanation": f"explanation {latent}",
        "author": "somebody",
        "origin": f"file.jsonl, line {latent}",
        "claim": "",
        "method": "none",
        "published": "{}",
        "copies": 1,
        "verdict": verdict,
        "reason": f"reason {latent}",
        **values,
    }


def frame_of(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA)


MEASURED = {
    "method": "words",
    "n_firings": 120,
    "n_contexts": 40,
    "precision": 0.91,
    "precision_low": 0.85,
    "precision_high": 0.96,
    "recall": 0.72,
    "recall_low": 0.6,
    "recall_high": 0.8,
    "f1": 0.8,
    "control_precision": 0.05,
    "control_recall": 0.11,
    "control_f1": 0.04,
    "rule": "fires on ` May` and `<b>`",
    "rule_precision": 0.95,
    "rule_recall": 0.85,
    "rule_f1": 0.9,
}
FRAME = frame_of(
    row(0, "supported", claim="` January`, ` May`", **MEASURED, published='{"detection": 0.875}'),
    row(1, "too broad", explanation="words about time\nand space", **MEASURED | {"f1": 0.2}),
    row(2, "too narrow", explanation=ATTRIBUTE, author=ATTRIBUTE, **MEASURED | {"f1": 0.3}),
    row(
        3,
        "contradicted",
        explanation=SCRIPT,
        reason=f"claims months; 94% of its firings are `{SCRIPT}`",
        better_latent=7,
        **MEASURED | {"f1": 0.01, "better_f1": 0.97},
    ),
    row(4, "failed", explanation="", author="", origin=SCRIPT),
    row(5, "duplicate", explanation=ODD, copies=31, hookpoint=f"6-res-{SCRIPT}"),
    row(6, "unverifiable", explanation="x" * 1_000_000, reason="a" * 10_000, claim="b" * 10_000),
    row(
        7,
        "contradicted",
        method="embedding",
        auroc=0.45,
        auroc_low=0.3,
        auroc_high=0.6,
        control_auroc=0.5,
        rule="fires on ` the`",
        rule_f1=0.99,
        published='{"<b>": NaN}',
    ),
)
FACTS: dict[str, Any] = {
    "format": 1,
    "source": f"/tmp/{SCRIPT}.jsonl",
    "read_as": "jsonl",
    "text": {"kind": "run", "run": "runs/demo", "tokens": 65536, "documents": 90},
    "n": len(FRAME),
    "verdicts": dict(FRAME["verdict"].value_counts().iter_rows()),
    "methods": {"words": 4, "embedding": 1, "none": 3},
    "means": {},
    "suspicious": [
        {
            "kind": "copied",
            "n": 31,
            "p": 0.00001,
            "text": f"stored 31 times: {SCRIPT}",
            "examples": ["layers.1.mlp 5", {"latent": 3}],
        }
    ],
    "notes": [f"line 3 passed over: {ODD}"],
}


def ground() -> Ground:
    texts = ("in", " May", " it", SCRIPT, " rains", "\n", ODD)
    contexts = [
        Context(texts, np.array([0, 8, 0, 2, 0, 0, 0], np.float32)),
        Context(texts[::-1], np.array([0, 0, 0, 0, 0, 4, 0], np.float32)),
        Context((" May",) * 60, np.array([0.0] * 30 + [3.0] + [0.0] * 29, np.float32)),
        Context((" silent",), np.zeros(1, np.float32)),
    ]
    return ground_of_contexts("layers.1.mlp", {("layers.1.mlp", 3): contexts})


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return audit_content(FRAME, FACTS, {3: firing_contexts(ground(), 3)})


@pytest.fixture(scope="module")
def html(content: dict[str, Any]) -> str:
    return render_audit(content)


def card(html: str, latent: int) -> str:
    """HTML of an explanation."""
    found = re.search(rf'<article [^>]*id="[^"]*-{latent}".*?</article>', html, re.DOTALL)
    assert found
    return found[0]


def words(part: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", part).split())


def test_verdicts_are_the_tables(content: dict[str, Any], html: str) -> None:
    found = content["verdicts"]
    assert found["total"] == {verdict: 2 if verdict == "contradicted" else 1 for verdict in MEANS}
    assert [(one["name"][:5], one["n"]) for one in found["rows"]] == [("6-res", 1), ("layer", 7)]
    bars = found["bars"]["layers.1.mlp"]
    assert [(bar["name"], bar["count"]) for bar in bars][:4] == [
        ("supported", 1),
        ("too broad", 1),
        ("too narrow", 1),
        ("contradicted", 2),
    ]
    assert sum(bar["width"] for bar in bars) == pytest.approx(100)
    # Not by colour alone.
    assert 'class="stripes contradicted"' in html
    methods = {one["name"]: (one["n"], one["counts"]) for one in content["methods"]}
    assert methods["embedding"] == (1, {"contradicted": 1})
    assert methods["none"][0] == 3
    assert "words 4 1 1 1 1 0 0 0" in words(html)


def test_every_verdict_is_known() -> None:
    assert tuple(MEANS) == VERDICTS
    assert set(page.ORDER) | {"failed"} == set(VERDICTS)


def test_a_card_has_words_numbers_and_controls(html: str) -> None:
    shown = words(card(html, 0))
    assert "explanation explanation 0" in shown
    assert "our rule fires on May and &lt;b&gt;" in shown
    assert "read as: January , May" in shown
    assert "checked by words, 120 firings precision recall F1" in shown
    assert "this explanation 0.91 [0.85, 0.96] 0.72 [0.60, 0.80] 0.80" in shown
    assert "others’ explanations, on average 0.05 0.11 0.04" in shown
    assert "our rule 0.95 0.85 0.90" in shown
    assert "Published with it: detection 0.875." in shown
    near = words(card(html, 7))
    assert "checked by embedding F1 AUROC" in near
    assert "this explanation – 0.45 [0.30, 0.60]" in near
    assert "fit latent 7 better: F1 0.97 there" in words(card(html, 3))
    assert "31 latents have this text" in words(card(html, 5))
    assert "(empty)" in words(card(html, 4))


def test_a_claim_that_never_holds_has_no_precision_but_controls_have() -> None:
    one = row(0, "contradicted", method="words", f1=0.0, recall=0.0, control_precision=0.25)
    facts = FACTS | {"n": 1, "verdicts": {"contradicted": 1}}
    shown = words(card(render_audit(audit_content(frame_of(one), facts)), 0))
    assert "precision recall F1 this explanation – 0.00 0.00 others’" in shown
    assert "average 0.25 – –" in shown


def test_text_of_others_is_text(html: str) -> None:
    assert "<script>alert" not in html
    assert html.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in card(html, 3)
    # An attribute cannot be left: every quote in it is escaped.
    assert not re.search(r"<[^>]*\sonmouseover=", html)
    assert "&#34; onmouseover=&#34;alert(2)&#34;" in card(html, 2)
    for char in ("\u202e", "\x1b", "\u200b", "\x00"):
        assert char not in html
    assert "a\\u202eb\\x1b[31mc\\u200bd\\x00e" in card(html, 5)


def test_long_texts_are_cut_and_say_so(html: str) -> None:
    assert "cut: 1,000,000 characters in all" in card(html, 6)
    assert len(card(html, 6)) < 5_000
    assert len(html) < 100_000


def test_lines_of_an_explanation_stay_lines() -> None:
    assert prose("one\ttab\r\ntwo\n", 600) == {"text": "one→tab␍\ntwo", "n_chars": 0}
    assert prose("abcdef", 3) == {"text": "abc…", "n_chars": 6}


def test_lines_are_cut_between_keys() -> None:
    texts = [part.text for part in short_line("fires on ` one` and ` other`", 18)]
    assert texts == ["fires on ", " one", " and ", "…"]
    assert [tuple(part) for part in short_line("`" + "a" * 30 + "`", 10)] == [("…", False)]
    assert [part.text for part in short_line("abc " * 5, 6)] == ["abc ab…"]
    assert sum(len(part.text) for part in short_line("a" * 10**6, 400)) == 401
    assert "".join(part.text for part in short_line("`" * 10**6, 4)) == "````…"


def test_firings_are_highlighted(content: dict[str, Any], html: str) -> None:
    strongest, typical = firing_contexts(ground(), 3)
    assert [(one["which"], one["act"]) for one in (strongest, typical)] == [
        ("strongest", 8.0),
        ("typical", 3.0),
    ]
    assert [token["step"] for token in strongest["tokens"]] == [0, 8, 0, 2, 0, 0, 0]
    assert [token["text"] for token in strongest["tokens"][:3]] == ["in", "May", "it"]
    assert (strongest["cut_before"], strongest["cut_after"]) == (False, False)
    # 16 tokens before and 6 after; 3 of 8 is step 3.
    assert [token["step"] for token in typical["tokens"]] == [0] * 16 + [3] + [0] * 6
    assert (typical["cut_before"], typical["cut_after"]) == (True, True)
    assert '<span class="a8" title="8.00">May</span>' in card(html, 3)
    assert firing_contexts(ground(), 4) == []


def test_rule_and_explanation_side_by_side(html: str) -> None:
    rows = beside(FRAME)
    # Furthest apart first: 0.9 against 0.01, 0.2, 0.3, 0.8; then the one that has no F1.
    assert [one["latent"] for one in rows] == [3, 1, 2, 0, 7]
    assert rule_means(FRAME) == {
        "n": 4,
        "f1": pytest.approx((0.8 + 0.2 + 0.3 + 0.01) / 4),
        "rule_f1": pytest.approx(0.9),
    }
    shown = words(html[html.index('id="beside"') : html.index('id="cards"')])
    assert "mean F1 0.33 of the explanations, 0.90 of our rules" in shown
    assert "AUROC 0.45" in shown
    assert beside(FRAME.with_columns(rule=pl.lit(None, pl.String))) == []
    assert rule_means(FRAME.filter(pl.col("verdict") == "failed")) is None


def test_suspicious_sets_and_notes(html: str) -> None:
    shown = words(html[html.index('id="suspicious"') : html.index('id="beside"')])
    assert "copied , 31 explanations (p &lt; 0.001): stored 31 times: &lt;script&gt;" in shown
    assert "layers.1.mlp 5, {&#34;latent&#34;: 3}, …" in shown
    assert "1 note from reading the files" in words(html)
    none = render_audit(audit_content(FRAME, FACTS | {"suspicious": []}))
    assert "None found" in none


def test_many_places_have_one_bar_and_an_order() -> None:
    names = [f"layers.{number}.mlp" for number in (10, 9, *range(8))]
    found = verdict_table(frame_of(*(row(1, "failed", hookpoint=name) for name in names)))
    assert [one["name"] for one in found["rows"]] == [
        *(f"layers.{number}.mlp" for number in range(8)),
        "layers.9.mlp",
        "layers.10.mlp",
    ]
    assert {name: bar[0]["count"] for name, bar in found["bars"].items()} == {"all 10 places": 10}


def test_the_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_SHOWN", 2)
    many = frame_of(*(row(latent, "too broad") for latent in range(5)), row(5, "failed"))
    assert picked_rows(many) == {"too broad": [0, 1], "failed": [5]}
    facts = FACTS | {"n": 6, "verdicts": {"too broad": 5, "failed": 1}}
    html = render_audit(audit_content(many, facts))
    assert html.count("<article") == 3
    assert "too broad 2 of 5" in words(html)
    assert "At most 2 of each verdict" in html


def test_every_text_kind_is_named() -> None:
    for kind in ("run", "model", "contexts", "none"):
        found = audit_content(FRAME, FACTS | {"text": {"kind": kind, "run": None}})
        assert len(found["facts"]) == 3


def test_written_whole(tmp_path: Path, content: dict[str, Any], html: str) -> None:
    write_audit_page(tmp_path / "audit.html", content)
    assert (tmp_path / "audit.html").read_text() == html
    assert [path.name for path in tmp_path.iterdir()] == ["audit.html"]


def save(folder: Path, facts: dict[str, Any] = FACTS) -> None:
    folder.mkdir(parents=True)
    (folder / "audit.json").write_text(json.dumps(facts))
    FRAME.write_parquet(folder / "audit.parquet")


def run_at(out: Path) -> Run:
    return cast(Run, SimpleNamespace(out=out))


def test_the_section_of_a_run(tmp_path: Path) -> None:
    assert audit_section(run_at(tmp_path)) is None
    save(tmp_path / "audit" / "b")
    save(tmp_path / "audit" / "a<b>")
    found = audit_section(run_at(tmp_path))
    assert found is not None
    assert [one["name"] for one in found["audits"]] == ["a<b>", "b"]
    assert found["audits"][1]["link"] == "audit/b/audit.html"
    assert [one["latent"] for one in found["audits"][0]["beside"]] == [3, 1, 2, 0, 7]
    html = section_html(found)
    assert "<b>&lt;" not in html
    assert 'href="audit/a%3Cb%3E/audit.html"' in html
    assert "1 suspicious set" in html
    assert "read as jsonl, checked on held-out text of a run" in html
    assert "<script>" not in html


def section_html(found: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from labeler.report.page import number, percent, signed

    environment = Environment(
        loader=FileSystemLoader(Path(page.__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": number, "percent": percent, "signed": signed}
    source = (
        '{% import "charts.html.j2" as charts with context %}'
        '{% import "audit_section.html.j2" as audits with context %}'
        "{{ audits.audits(found, charts) }}"
    )
    return environment.from_string(source).render(found=found)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("audit.json", b"{"),
        ("audit.json", b"{}"),
        ("audit.parquet", b"PAR1"),
        ("audit.parquet", None),
    ],
)
def test_damaged_audits_are_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    save(tmp_path / "audit" / "mine")
    path = tmp_path / "audit" / "mine" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"audit/mine/.*run `labeler audit` again, or delete"):
        audit_section(run_at(tmp_path))
