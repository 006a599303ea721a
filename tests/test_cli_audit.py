"""`labeler audit` as a command: its help, its table, its exit status."""

import json
from pathlib import Path

import pytest
import tiny_run as tiny
import typer
from typer.testing import CliRunner

from labeler.cli_audit import add_audit
from labeler.errors import OptionError
from labeler.inputs import Run

FIRST, SECOND = tiny.HOOKPOINTS


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    found = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    found.callback()(lambda: None)
    add_audit(found)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny.tiny_run(tmp_path_factory.mktemp("run"), verified=False)


def write(path: Path, rows: list[tuple[str, int, str]]) -> Path:
    keys = ("hookpoint", "latent", "text")
    path.write_text("\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows))
    return path


def invoke(app: typer.Typer, *options: str) -> str:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(
        app, ["audit", *options], catch_exceptions=False
    )
    assert result.exit_code == 0
    return result.output


def test_a_report_is_a_success_even_of_failures(app: typer.Typer, run: Run, tmp_path: Path) -> None:
    hostile = f'the text "{tiny.HOSTILE}"'
    rows = [(FIRST, tiny.TOKEN, hostile), (FIRST, 1, ""), (SECOND, tiny.PAIR, 'the token "w9"')]
    labels = write(tmp_path / "mine.jsonl", rows)
    shown = invoke(app, "--labels", str(labels), "--run", str(run.out), "--quiet")
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == ["verdict", FIRST, SECOND, "all", "2", "places"]
    assert ["supported", "1", "0", "1", "33%"] in lines
    assert ["contradicted", "0", "1", "1", "33%"] in lines
    assert ["failed", "1", "0", "1", "33%"] in lines
    assert "".join(shown.split()).endswith(f"page:{run.out}/audit/mine.jsonl/audit.html")
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("page:"))


def test_one_place_and_many(app: typer.Typer, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [(FIRST, 0, "commas"), (FIRST, 1, "")])
    shown = invoke(app, "--labels", str(one), "--out", str(tmp_path / "one"))
    assert shown.splitlines()[0].split() == ["verdict", FIRST]
    assert shown.splitlines()[1].split() == ["failed", "1", "50%"]
    rows = [(f"layers.{layer}.mlp", 0, "commas") for layer in range(30)]
    many = write(tmp_path / "many.jsonl", rows)
    shown = invoke(app, "--labels", str(many), "--out", str(tmp_path / "many"))
    assert shown.splitlines()[0].split() == ["verdict", "all", "30", "places"]


def test_text_of_others_does_not_reach_the_terminal(app: typer.Typer, tmp_path: Path) -> None:
    texts = [f"copied {set_} {tiny.ESCAPE}" for set_ in range(9)]
    rows = [(f"x{tiny.ESCAPE}", n, text) for n, text in enumerate(texts * 5)]
    labels = write(tmp_path / "a.jsonl", rows)
    shown = invoke(app, "--labels", str(labels), "--out", str(tmp_path / "out"))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.count("suspicious: “copied") == 5
    assert "suspicious: 4 more sets, on the page" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--run r --model m --coder c --corpus x", "either --run or --model"),
        ("--model m --out o", "--coder, --corpus is missing"),
        ("--corpus x --out o", "--model, --coder is missing"),
        ("--model m --coder c --corpus x --heldout-tokens 3 --out o", "--heldout-tokens is 3"),
        ("", "give --out, or --run"),
        ("--llm-model m --out o", "give either --llm-base-url or --llm-folder, not neither"),
    ],
)
def test_options_that_do_not_fit(
    app: typer.Typer, options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [(FIRST, 0, "commas")])
    with pytest.raises(OptionError, match=message):
        CliRunner().invoke(
            app, ["audit", "--labels", "a.jsonl", *options.split()], catch_exceptions=False
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_help_shows_how(app: typer.Typer) -> None:
    shown = invoke(app, "--help")
    assert "labeler audit --labels neuronpedia.jsonl --run runs/mine" in shown
    for option in ("--labels", "--run", "--model", "--embedding", "--llm-folder", "--hookpoint"):
        assert option in shown
