"""`labeler rewrite` on a run of the tiny model: files, resuming, what makes it measure again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from labeler import steps
from labeler.config import RunConfig
from labeler.eval.rewrite_curves import FRACTIONS
from labeler.inputs import Run

pytestmark = pytest.mark.slow

NAMES = ("layers.0.mlp", "layers.1.mlp")


@pytest.fixture(scope="module")
def made(
    text_folder: Path,
    model_folder: Path,
    coder_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run up to its labels, rewritten with curves."""
    out = tmp_path_factory.mktemp("run")
    config = RunConfig(
        model=str(model_folder),
        coder=str(coder_folder),
        corpus=str(text_folder),
        tokens=3000,
        heldout_tokens=1500,
        ctx_len=40,
    )
    run = steps.start(out, config, quiet=True)
    steps.cache(run)
    steps.fit(run, ["bigram"], corrections=[])
    steps.rewrite(run, 600, curves_tokens=150)
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Run:
    shutil.copytree(made, tmp_path / "run")
    return Run(tmp_path / "run", quiet=True)


def read(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "rewrite" / f"{name}.json").read_text())
    return found


def test_the_table_has_every_variant_and_its_share(made: Path) -> None:
    for name in (*NAMES, "all_layers"):
        found = read(made, name)
        assert list(found["ce"]) == [
            *("base", "coder", "zero", "mean", "skip"),
            *("labels_16", "labels_100", "labels_unlimited"),
            *("unigram", "shuffled", "random", "oracle_support", "oracle_value"),
        ]
        ce = found["ce"]
        # Few keys are worth stating on so little text: 16 and 100 may be the same.
        assert len({value for one, value in ce.items() if one != "labels_16"}) == len(ce) - 1
        assert set(found["recovered_by_variant"]) == set(ce)
        for variant, share in found["recovered_by_variant"].items():
            expected = (ce["mean"] - ce[variant]) / (ce["mean"] - ce["coder"])
            assert share["value"] == pytest.approx(expected)
            assert share["low"] <= share["high"]
        for budget in ("16", "100", "unlimited"):
            assert found["recovered"][budget] == found["recovered_by_variant"][f"labels_{budget}"]
        assert found["shuffled"] == found["recovered_by_variant"]["shuffled"]["value"]
        assert found["hookpoints"] == list(NAMES if name == "all_layers" else [name])


def test_the_curves_and_costs(made: Path) -> None:
    kinds = [
        *(("score", 100, "none"), ("dce", 100, "none"), ("random", 100, "none")),
        *(("score", 100, how) for how in ("quantile", "topk", "scale", "quantile+topk")),
        ("score", "unlimited", "none"),
    ]
    for name in (*NAMES, "all_layers"):
        found = read(made, f"{name}-curves")
        assert found["n_documents"] >= 3
        assert 100 < found["n_tokens"] < read(made, name)["n_tokens"]
        curves = found["curves"]
        assert [(one["ranking"], one["budget"], one["transform"]) for one in curves] == kinds
        for one in curves[:3]:
            assert [point["fraction"] for point in one["points"]] == list(FRACTIONS)
            assert one["points"][-1] == curves[0]["points"][-1]
        assert len({one["points"][3]["ce"] for one in curves[:3]}) == 3
        assert len({one["points"][-1]["ce"] for one in curves}) == 6
        assert set(found["ce"]) == {"base", "coder", "zero", "mean", "skip"}
        paper = found["paper_2501_18838"]
        assert paper["n_tokens"] >= 1
        assert len(paper["curves"][0]["points"]) == len(FRACTIONS)
        assert (found["costs"] is None) == (name == "all_layers")
    for name in NAMES:
        costs = pl.read_parquet(made / "rewrite" / f"{name}-latents.parquet")
        assert costs["latent"].to_list() == list(range(48))
        assert costs["exact"].sum() == read(made, f"{name}-curves")["costs"]["n_exact"] == 4
        assert costs["first_order"].is_finite().all()
        assert costs["first_order"].n_unique() > 10
        estimated = costs.filter(~pl.col("exact"))
        assert estimated["dce"].to_list() == estimated["first_order"].to_list()


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "rewrite").iterdir()}


def test_nothing_is_done_twice_and_what_is_missing_is(copy: Run) -> None:
    before = times(copy.out)
    assert len(before) == 8
    steps.rewrite(copy, 600, curves_tokens=150)
    assert times(copy.out) == before
    # Without curves, those that are there stay.
    steps.rewrite(copy, 600)
    assert times(copy.out) == before
    old = read(copy.out, "layers.1.mlp-curves")
    (copy.out / "rewrite" / "layers.1.mlp-curves.json").unlink()
    steps.rewrite(copy, 600, curves_tokens=150)
    after = times(copy.out)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"layers.1.mlp-curves.json", "layers.1.mlp-latents.parquet"}
    assert read(copy.out, "layers.1.mlp-curves") == old


def test_curves_of_other_labels_do_not_stay(copy: Run) -> None:
    steps.fit(copy, ["unigram"], corrections=[])
    before = times(copy.out)
    steps.rewrite(copy, 600)
    after = times(copy.out)
    assert not [name for name in after if name.endswith("-curves.json")]
    for name in (*NAMES, "all_layers"):
        assert after[f"{name}.json"] != before[f"{name}.json"]
    # Where all labels are unigram tables, so is the baseline, up to latents without a label.
    ce = read(copy.out, "layers.0.mlp")["ce"]
    assert ce["labels_unlimited"] == pytest.approx(ce["unigram"], abs=0.02)


def test_ctrl_c_among_the_curves_and_the_same_command_again(
    copy: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.eval import rewrite

    for path in (copy.out / "rewrite").iterdir():
        path.unlink()
    original: Callable[..., Any] = rewrite.cross_entropies
    calls = []

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(rewrite, "cross_entropies", interrupt)
        with pytest.raises(KeyboardInterrupt):
            steps.rewrite(copy, 600, curves_tokens=150)
    assert (copy.out / "rewrite" / "all_layers.json").exists()
    assert not (copy.out / "rewrite" / "all_layers-curves.json").exists()
    steps.rewrite(copy, 600, curves_tokens=150)
    for name in (*NAMES, "all_layers"):
        for kind in ("", "-curves"):
            again, before = read(copy.out, name + kind), read(made, name + kind)
            assert again == before
    one, other = (
        pl.read_parquet(out / "rewrite" / f"{NAMES[0]}-latents.parquet") for out in (made, copy.out)
    )
    assert np.allclose(one["dce"], other["dce"])
