"""The card in the terminal."""

import shutil
from pathlib import Path

import polars as pl
import pytest
import tiny_run as tiny
from rich.cells import cell_len

from labeler.errors import LabelError, OptionError, RunError
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.show import show

LAYER = tiny.HOOKPOINTS[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = tiny.tiny_run(tmp_path_factory.mktemp("show"))
    tiny.try_out(run)
    return run


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def shown(out: Path, latent: int, capsys: pytest.CaptureFixture[str], name: str = LAYER) -> str:
    show(out, name, latent)
    return capsys.readouterr().out


def test_shows_label_scores_keys_and_text(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(run.out, tiny.PAIR, capsys)
    label = LabelSet.load(label_folder(run.out, LAYER)).label(tiny.PAIR)
    assert " ".join(label.text.split()) in " ".join(text.split())
    assert f"{LAYER} {tiny.PAIR}  bigram" in text
    assert "F1 0.97 [" in text
    assert "held-out documents, 100 keys" in text
    assert ["key", "adds", "predicts", "fired", "seen", "type"] in [
        line.split() for line in text.splitlines()
    ]
    first = LabelSet.load(label_folder(run.out, LAYER)).entries.filter(
        (pl.col("budget") == 100) & (pl.col("latent") == tiny.PAIR)
    )
    assert f"{first['weight'][0]:+.1f}" in text
    assert "▸«{w5}»" in text
    assert f"labeler export {LAYER} {tiny.PAIR} --out" in text


def test_fits_80_columns_without_escapes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for latent in range(tiny.N_LATENTS):
        text = shown(run.out, latent, capsys)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert max(cell_len(line) for line in text.splitlines()) <= 80


def test_shows_verdict_and_evidence(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(run.out, tiny.BREAK, capsys)
    assert "refuted  F1 0.30 [0.25, 0.50] on held-out text, where its fit claims 0.90" in text
    assert "100 keys, whose fit claims F1 0.90" in " ".join(text.split())
    rows = [line.split() for line in text.splitlines()]
    assert ["test", "own", "control", "difference", "tried", "failed"] in rows
    assert ["heldout", "0.30", "0.05", "0.25", "[0.20,", "0.30]", "80", "0"] in rows
    assert any(row[:3] == ["necessity", "0.00", "0.08"] and row[-2:] == ["12", "2"] for row in rows)
    # Without a partner there is no control.
    rows = [line.split() for line in shown(run.out, tiny.LOOSE, capsys).splitlines()]
    assert ["heldout", "0.90", "–", "–", "3", "0"] in rows
    text = " ".join(shown(run.out, tiny.PAIR, capsys, tiny.HOOKPOINTS[1]).split())
    assert "not tried not among the 2 labels of this layer drawn for the tests" in text
    assert "necessity" not in text
    assert "verdict" not in shown(run.out, tiny.NOISE, capsys)


def test_says_how_to_get_a_verdict(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    (tmp_path / "run" / "verify" / LAYER / "tests.json").unlink()
    text = " ".join(shown(tmp_path / "run", tiny.TOKEN, capsys).split())
    assert "no verdict: run `labeler verify" in text
    assert "sufficiency" not in text
    assert "no verdict" not in shown(tmp_path / "run", tiny.NOISE, capsys)


def test_colours_in_a_terminal(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    text = shown(run.out, tiny.TOKEN, capsys)
    assert "\x1b[" in text
    assert "«" not in text
    # Markup and escapes that the corpus holds stay what they are.
    assert "[bold]&amp;" in text
    assert "\\x1b[31m\\u202e" in text


def test_unlabeled_latents_say_why(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(run.out, tiny.NOISE, capsys)
    assert f"{LAYER} {tiny.NOISE}  abstained" in text
    assert "closest candidates" in text
    assert "false alarm" not in text
    text = shown(run.out, tiny.DEAD, capsys)
    assert "too rare  not live" in text
    assert "never fires in the held-out text" in text


def test_any_spelling_of_the_hookpoint(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    same = shown(run.out, tiny.TOKEN, capsys)
    assert shown(run.out, tiny.TOKEN, capsys, "blocks.0.hook_mlp_out") == same


def test_wrong_names_are_told_what_exists(run: Run, tmp_path: Path) -> None:
    for name in ("layers.7.mlp", "nonsense"):
        with pytest.raises(OptionError, match=r"it has layers\.0\.mlp, layers\.1\.mlp"):
            show(run.out, name, 0)
    with pytest.raises(LabelError, match="latents 0 to 6, not 99"):
        show(run.out, LAYER, 99)
    with pytest.raises(RunError, match="run `labeler cache`"):
        show(tmp_path, LAYER, 0)
    shutil.copy(run.out / "run.json", tmp_path)
    with pytest.raises(RunError, match="run `labeler fit"):
        show(tmp_path, LAYER, 0)


def test_without_scores_and_without_cache(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("labels", "tokens"):
        shutil.copytree(run.out / name, tmp_path / name)
    shutil.copy(run.out / "run.json", tmp_path)
    text = " ".join(shown(tmp_path, tiny.PAIR, capsys).split())
    assert "fires on" in text
    assert "no scores: run `labeler verify" in text
    assert "no text: no latent cache" in text
    assert "F1" not in text
