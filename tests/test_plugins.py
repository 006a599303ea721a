"""Plug-ins: files and entry points, the command line's part in them, and what a run remembers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tiny_run import planted, tiny_tokens, write_cache
from typer.testing import CliRunner

from labeler import cli
from labeler.cli import app
from labeler.config import DEFAULT_FUNCTIONS, RunConfig
from labeler.errors import FunctionTypeError, LabelerError, OptionError, RunError
from labeler.functions import FunctionType, Keys, function_types, get_function_type, registry
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.plugins import load_plugin, load_recorded, open_plugins, record_plugins, text_of_run
from labeler.provenance import mark_done
from labeler.scaffold import write_skeleton
from labeler.tokens import Tokens
from labeler.windows import save_tokens

HOSTILE = '''\
"""A type that is for the made-up run: two of its latents fire on the tokens 1 and 2."""

import numpy as np

from labeler.functions import FunctionType, register


@register
class SmallToken(FunctionType):
    """Whether the token's number is small."""

    name = "small_token"

    def keys(self, tokens):
        return np.where((tokens.ids == 1) | (tokens.ids == 2), 1, 0).astype(np.int64)

    def render(self, key):
        return "a break" if key else "another token"
'''

PARITY = HOSTILE.replace("SmallToken", "Parity").replace("small_token", "parity")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry, put back after each test."""
    monkeypatch.setattr(registry, "_registry", dict(function_types()))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a plug-in file."""

    def write(source: str = PARITY, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        return path

    return write


def labeler(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "labeler", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


# -- files -----------------------------------------------------------------------------------------


def test_a_file_registers_its_types(write: Callable[..., Path]) -> None:
    path = write(PARITY + HOSTILE)
    plugin = load_plugin(path)
    assert [kind.name for kind in plugin.types] == ["parity", "small_token"]
    assert get_function_type("parity") is plugin.types[0]
    assert plugin.path == path
    assert not (path.parent / "__pycache__").exists()


def test_a_changed_file_takes_the_place_of_what_it_was(write: Callable[..., Path]) -> None:
    before = load_plugin(write(PARITY + HOSTILE))
    after = load_plugin(write(PARITY.replace("a break", "a change")))
    assert before.sha256 != after.sha256
    assert get_function_type("parity")().render(1) == "a change"
    assert "small_token" not in function_types()


def test_a_copy_of_a_file_is_the_same_plug_in(write: Callable[..., Path]) -> None:
    load_plugin(write(name="one/mine.py"))
    copy = load_plugin(write(name="two/mine.py"))
    assert get_function_type("parity") is copy.types[0]
    with pytest.raises(FunctionTypeError, match=r"'parity' is taken by .*Parity; .*two/mine\.py\)"):
        load_plugin(write(PARITY + "# another\n", name="three/mine.py"))


IMPORTS_BESIDE = "import helper_beside_it\n"
AT_EXIT = PARITY + "raise SystemExit(3)\n"

BROKEN_FILES = [
    ("", "registers no function type; write `@register` above its class"),
    ("import numpy as np\n\n1 / 0\n" + PARITY, "line 3 raises ZeroDivisionError: division by zero"),
    (PARITY + "\nclass :\n", "line 20 raises SyntaxError: invalid syntax; correct the file"),
    (PARITY + IMPORTS_BESIDE, "ModuleNotFoundError: .*helper_beside_it.*beside the file are not"),
    (AT_EXIT, "raises SystemExit: 3; put what is not for loading under `if __name__"),
    (PARITY.replace("@register", "@register()"), "write `@register` above the class, without"),
    (PARITY.replace('"parity"', '"Parity"'), "Parity: name is 'Parity'; .* in snake case"),
    (PARITY.replace('"parity"', '"unigram"'), "'unigram' is taken by labeler.functions.unigram"),
    (PARITY.replace("def render", "def renders"), "Parity: define render, which it leaves abstr"),
    (PARITY.replace("(FunctionType)", ""), "subclass of FunctionType, not <class"),
    (PARITY + HOSTILE.replace("small_token", "parity"), "SmallToken: the name 'parity' is taken"),
]


@pytest.mark.parametrize(("source", "fault"), BROKEN_FILES)
def test_a_broken_file_is_refused_whole(
    source: str, fault: str, write: Callable[..., Path]
) -> None:
    before, modules = function_types(), set(sys.modules)
    path = write(source)
    with pytest.raises(FunctionTypeError, match=rf"plug-in {path}:? .*{fault}"):
        load_plugin(path)
    assert function_types() == before
    assert {name for name in sys.modules if name.startswith("plugin_")} <= modules


def test_a_failed_change_leaves_the_earlier_types(write: Callable[..., Path]) -> None:
    plugin = load_plugin(write())
    for source, fault in (
        (PARITY + "oops\n", "line 19 raises NameError"),
        ("", "registers no"),
    ):
        with pytest.raises(FunctionTypeError, match=fault):
            load_plugin(write(source))
        assert get_function_type("parity") is plugin.types[0]


def test_what_is_no_python_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FunctionTypeError, match=r"nope\.py cannot be read \(No such file"):
        load_plugin(tmp_path / "nope.py")
    with pytest.raises(FunctionTypeError, match=r"must end in \.py"):
        load_plugin(tmp_path)
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(FunctionTypeError, match=r"cannot be read \(Is a directory\)"):
        load_plugin(tmp_path / "folder.py")


def test_an_unknown_parent_names_the_child(write: Callable[..., Path]) -> None:
    source = PARITY.replace('name = "parity"', 'name = "parity"\n    backs_off_to = "wrod"')
    load_plugin(write(source))
    with pytest.raises(FunctionTypeError, match=r"parity backs off to an unknown .* 'wrod'; th"):
        registry.with_back_off(["parity"])


# -- entry points ----------------------------------------------------------------------------------


class Installed(FunctionType):
    """A type of an installed package."""

    name = "installed"

    def keys(self, tokens: Tokens) -> Keys:
        return np.zeros(tokens.ids.shape, dtype=np.int64)

    def render(self, key: int) -> str:
        return "anything"


class TakesUnigram(Installed):
    name = "unigram"


class _Entry(EntryPoint):
    """An entry point whose object is at hand."""

    objects: dict[str, Any] = {}  # noqa: RUF012 - EntryPoint is immutable otherwise

    def load(self) -> Any:
        found = self.objects[self.name]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the environment declare entry points."""

    def install(**objects: Any) -> None:
        entries = [_Entry(name, f"pkg:{name}", registry.ENTRY_POINT_GROUP) for name in objects]
        monkeypatch.setattr(_Entry, "objects", objects)
        monkeypatch.setattr(registry, "entry_points", lambda group: entries)
        monkeypatch.setattr(registry, "_entry_points_read", False)

    return install


def test_installed_types_and_modules_are_found(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(one=Installed, a_module=ModuleType("registers_by_itself"))
    assert get_function_type("installed") is Installed
    result = CliRunner().invoke(app, ["functions"])
    assert "  installed                 A type of an installed package.\n" in result.output


@pytest.mark.parametrize(
    ("loaded", "fault"),
    [
        (TakesUnigram, r"TakesUnigram: the name 'unigram' is taken by .*\(that one is in .*unig"),
        (ImportError("no module x"), "cannot be loaded: ImportError: no module x; fix it or unin"),
        (lambda tokens: 0, "a function type is a subclass of FunctionType, not <function"),
        (type("Nameless", (Installed,), {"name": "No Name"}), "Nameless: name is 'No Name'"),
    ],
)
def test_a_broken_installed_plug_in_is_named(
    loaded: Any, fault: str, install: Callable[..., None]
) -> None:
    install(good=Installed, bad=loaded)
    for _ in range(2):  # not only the first time
        with pytest.raises(FunctionTypeError, match=rf"^plug-in 'bad' \(pkg:bad\):? .*{fault}"):
            function_types()


def test_a_file_may_not_take_the_name_of_an_installed_type(
    install: Callable[..., None], write: Callable[..., Path]
) -> None:
    install(one=Installed)
    with pytest.raises(FunctionTypeError, match=r"mine\.py: .*'installed' is taken by .*Installed"):
        load_plugin(write(PARITY.replace("parity", "installed")))


# -- labeler functions -----------------------------------------------------------------------------


def test_the_list_fits_80_columns_and_has_every_type(write: Callable[..., Path]) -> None:
    long = "one_with_a_name_that_is_far_too_long_for_the_column"
    source = PARITY.replace("parity", long).replace(
        "number is small.", "number is " + "small " * 20
    )
    load_plugin(write(source))
    shown = CliRunner().invoke(app, ["functions"]).output
    assert CliRunner().invoke(app, ["functions", "list"]).output == shown
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines[:-1] if line[2] != " "]
    assert [row[2:].split()[0] for row in rows] == registry.with_back_off(function_types())
    marked = {row.split()[1] for row in rows if row.startswith("* ")}
    assert marked == set(DEFAULT_FUNCTIONS)
    assert "* bigram -> unigram         The token and the one before it." in lines
    assert any(line.startswith(f"  {long}  Whether") for line in lines)


def test_help_says_what_there_is() -> None:
    shown = CliRunner().invoke(app, ["functions", "--help"]).output
    assert max(map(len, shown.splitlines())) <= 80
    for words in ("list", "new    Write NAME.py", "check", "exit status 2"):
        assert words in shown


@pytest.mark.slow
def test_a_skeleton_works_as_it_is(tmp_path: Path) -> None:
    done = labeler("functions", "new", "part_of_town", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrote part_of_town.py and test_part_of_town.py;")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "part_of_town.py",
        "test_part_of_town.py",
    ]
    commands = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert commands[0][1:3] == ["-m", "pytest"]
    tested = subprocess.run(
        [sys.executable, *commands[0][1:], "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout
    checked = labeler(*commands[1][1:], cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "part_of_town: ok (distinct keys on this text: 2)\n"
    again = labeler("functions", "new", "part_of_town", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == (
        "labeler: part_of_town.py is there already; choose another name, or move it away\n"
    )


@pytest.mark.slow
def test_the_test_of_a_skeleton_can_fail(tmp_path: Path) -> None:
    module, test = write_skeleton("part_of_town", tmp_path)
    module.write_text(module.read_text().replace("table[ids]", "table[ids[:, ::-1]]"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert "reads the future" in done.stdout


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("PartOfSpeech", "no name for a function type"),
        ("part-of-speech", "no name for a function type"),
        ("../evil", "no name for a function type"),
        ("class", "no name for a function type"),
        ("2nd", "no name for a function type"),
        ("", "no name for a function type"),
        ("unigram", "'unigram' is taken by labeler.functions.unigram.Unigram; choose another"),
        ("numpy", "is the name of a Python module"),
        ("random", "is the name of a Python module"),
    ],
)
def test_a_skeleton_of_a_bad_or_taken_name_is_refused(
    name: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=fault):
        write_skeleton(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_skeleton_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("keep")
    with pytest.raises(OptionError, match=r"test_mine\.py is there already"):
        write_skeleton("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine.py"]


def test_a_skeleton_in_a_folder_that_is_gone_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(LabelerError, match=r"cannot write .*mine\.py: No such file or directory"):
        write_skeleton("mine", tmp_path / "gone")


def test_check_says_a_line_per_type_and_ends_with_status_2(write: Callable[..., Path]) -> None:
    future = HOSTILE.replace("tokens.ids == 1", "tokens.ids[:, ::-1] == 1")
    done = labeler("functions", "check", write(PARITY + future))
    assert done.returncode == 2
    sound, broken = done.stdout.splitlines()
    assert sound == "parity: ok (distinct keys on this text: 2)"
    assert broken.startswith("small_token: keys reads the future: what follows position 0 changes")
    assert done.stderr.endswith("mine.py: 1 of 2 function types break the contract\n")


def test_check_says_where_little_was_tried(write: Callable[..., Path]) -> None:
    silent = PARITY.replace(", 1, 0)", ", -1, -1)")
    abstains = HOSTILE.replace(
        "    def keys",
        "    def prepare(self, tokens):\n"
        "        from labeler.errors import NotApplicableError\n"
        '        raise NotApplicableError("too cold")\n\n'
        "    def keys",
    )
    result = CliRunner().invoke(app, ["functions", "check", str(write(silent + abstains))])
    assert result.exception is None
    assert result.output.splitlines() == [
        "parity: ok, but little was tried: it has no key on this text",
        "small_token: ok, but little was tried: it abstains on this text (too cold)",
    ]


def test_check_of_a_file_that_cannot_be_loaded_is_one_line(write: Callable[..., Path]) -> None:
    done = labeler("functions", "check", write(PARITY + "oops\n"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "mine.py: line 19 raises NameError: name 'oops' is not defined" in done.stderr


def test_check_imports_nothing_heavy(write: Callable[..., Path]) -> None:
    heavy = {"torch", "transformers", "transformer_lens", "polars", "sklearn"}
    code = (
        "import sys; from typer.testing import CliRunner; from labeler.cli import app; "
        f"CliRunner().invoke(app, ['functions', 'check', {str(write())!r}], "
        "catch_exceptions=False); "
        f"print(*sorted({heavy!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


# -- a run with plug-ins ---------------------------------------------------------------------------

HOOKPOINT = "layers.0.mlp"
RUN_OF_ANOTHER = ["run", "--model", "m", "--coder", "c", "--corpus", "x"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run that is cached and not fitted yet."""
    folder, tokens = tmp_path / "run", tiny_tokens()
    RunConfig(model="./a model", coder="owner/coders", corpus="stdlib", ctx_len=24).save(folder)
    save_tokens(tokens, folder / "tokens")
    mark_done(folder / "tokens" / "done.json", "made up", corpus="d" * 64)
    write_cache(folder, tokens, {HOOKPOINT: planted(tokens, 0)})
    return folder


def command(*arguments: object) -> str:
    """A command of the command line in this process: what it says."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def fit(out: Path, *arguments: object) -> str:
    return command("fit", "-q", "--out", out, *arguments)


def winner(out: Path, latent: int = 1) -> str | None:
    """The type of a label; latent 1 fires on tokens 1 and 2."""
    Run(out, quiet=True)
    return LabelSet.load(label_folder(out, HOOKPOINT)).label(latent).function_type


@pytest.mark.slow
def test_labels_of_a_plug_in_are_read_in_a_fresh_process(
    out: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(HOSTILE)
    monkeypatch.chdir(path.parent)
    done = labeler("fit", "-q", "--out", out, "--plugin", path.name, "--functions", "small_token")
    assert done.returncode == 0, done.stderr
    remembered = json.loads((out / "plugins.json").read_text())
    (entry,) = remembered["plugins"]
    assert entry["path"] == str(path)  # absolute: the next command may be run elsewhere
    assert entry["types"] == ["small_token"]
    monkeypatch.chdir("/")
    verified = labeler("verify", "-q", "--out", out)
    assert verified.returncode == 0, verified.stderr
    shown = labeler("show", HOOKPOINT, 1, "--out", out)
    assert shown.returncode == 0, shown.stderr
    assert "small_token" in shown.stdout
    assert "another token" in shown.stdout  # its own text of a key
    assert winner(out) == "small_token"


@pytest.mark.slow
def test_plug_ins_compete_unless_functions_are_named(out: Path, write: Callable[..., Path]) -> None:
    fit(out, "--plugin", write(HOSTILE))
    assert winner(out) == "small_token"
    tree = json.loads((out / "labels" / "tree" / "tree.json").read_text())
    assert {"small_token", "unigram", "bigram"} <= set(tree["types"])
    # Those that the run remembers compete too.
    assert "labeled" not in fit(out)
    fit(out, "--functions", "unigram")
    assert winner(out) == "unigram"


@pytest.mark.slow
def test_a_changed_plug_in_is_told_and_fitted_again(out: Path, write: Callable[..., Path]) -> None:
    path = write(HOSTILE)
    fit(out, "--plugin", path, "--functions", "small_token")
    command("verify", "-q", "--out", out)
    before = (out / "verify" / HOOKPOINT / "latents.parquet").read_bytes()
    write(HOSTILE.replace("== 1", "== 0"))
    done = labeler("verify", "-q", "--out", out)
    assert done.returncode == 2
    assert f"the plug-in {path} has changed since the labels of {out} were fitted" in done.stderr
    assert f"run `labeler fit --out {out} --plugin {path}` to fit again" in done.stderr
    assert "labeled" in fit(out, "--plugin", path, "--functions", "small_token")
    command("verify", "-q", "--out", out)
    assert (out / "verify" / HOOKPOINT / "latents.parquet").read_bytes() != before


@pytest.mark.slow
def test_a_missing_plug_in_is_told_and_a_moved_one_is_found(
    out: Path, write: Callable[..., Path]
) -> None:
    path = write(HOSTILE)
    fit(out, "--plugin", path, "--functions", "small_token")
    moved = path.rename(path.with_name("moved.py"))
    with pytest.raises(RunError, match=rf"the plug-in {path}, .*, is missing; put it back, or run"):
        Run(out)
    # The same file elsewhere: nothing is to be done again.
    assert "labeled" not in fit(out, "--plugin", moved, "--functions", "small_token")
    assert Run(out).plugins[0].path == moved


def test_a_run_without_plug_ins_remembers_none(out: Path) -> None:
    record_plugins(out, ())
    assert not (out / "plugins.json").exists()
    assert Run(out).plugins == load_recorded(out) == ()


def test_a_plug_in_that_breaks_the_contract_is_refused_before_anything(
    out: Path, write: Callable[..., Path]
) -> None:
    path = write(HOSTILE.replace("tokens.ids == 1", "tokens.ids[:, ::-1] == 1"))
    with pytest.raises(FunctionTypeError, match=rf"plug-in {path}: SmallToken .*reads the future"):
        fit(out, "--plugin", path)
    assert not (out / "plugins.json").exists()
    result = CliRunner().invoke(
        app,
        [*RUN_OF_ANOTHER, "--out", str(out / "new"), "--plugin", str(path)],
    )
    assert isinstance(result.exception, FunctionTypeError)
    assert not (out / "new").exists()


def test_plug_ins_are_tried_on_the_text_of_the_run(out: Path, write: Callable[..., Path]) -> None:
    """Only there does the type have keys at all, and a fault to find."""
    source = HOSTILE.replace(
        "        return np",
        "        if len(tokens.vocab) == 30:\n"
        "            return (tokens.ids[:, ::-1] > 5).astype(np.int64)\n"
        "        return np",
    )
    path = write(source)
    assert open_plugins(out / "new", [path])[0].types[0].name == "small_token"
    with pytest.raises(FunctionTypeError, match="reads the future"):
        open_plugins(out, [path])
    tokens = text_of_run(out)
    assert 0 < (tokens.fold < 0).sum() <= 16
    assert 24 <= (tokens.fold >= 0).sum() <= 48
    with pytest.raises(LabelerError, match="break the contract"):
        command("functions", "check", path, "--out", out)
    command("functions", "check", path)


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(RunError, match="run `labeler cache` or `labeler run` first"):
        fit(tmp_path / "nothing", "--plugin", write())
    assert not (tmp_path / "nothing").exists()


def test_a_run_of_other_settings_keeps_its_plug_ins(out: Path, write: Callable[..., Path]) -> None:
    record_plugins(out, open_plugins(out, [write()]))
    (out / "labels" / HOOKPOINT).mkdir(parents=True)
    (out / "labels" / HOOKPOINT / "done.json").write_text("{}")
    other = write(PARITY.replace("parity", "other"), "other.py")
    result = CliRunner().invoke(app, [*RUN_OF_ANOTHER, "--plugin", str(other), "--out", str(out)])
    assert isinstance(result.exception, RunError)
    assert (out / "labels" / HOOKPOINT / "done.json").exists()
    assert Run(out).plugins[0].path.name == "mine.py"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": 7}', '{"format": 1}', '{"format": 1, "plugins": [{"path": 3}]}'],
)
def test_a_damaged_record_is_told_and_mended_by_fitting(
    content: str, out: Path, write: Callable[..., Path]
) -> None:
    (out / "plugins.json").write_text(content)
    (out / "verify" / HOOKPOINT).mkdir(parents=True)
    (out / "verify" / HOOKPOINT / "done.json").write_text("{}")
    with pytest.raises(RunError, match=r"plugins\.json.*; run `labeler fit --out .* --plugin FILE"):
        Run(out)
    record_plugins(out, open_plugins(out, [write()]))
    assert [kind.name for kind in Run(out).plugins[0].types] == ["parity"]
    # What plug-ins the earlier results were made with is not known.
    assert not (out / "verify" / HOOKPOINT / "done.json").exists()


def test_an_error_of_a_plug_in_is_one_line_and_status_2(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(PARITY.replace('"parity"', '"unigram"'))
    monkeypatch.setattr(sys, "argv", ["labeler", "fit", "--out", "none", "--plugin", str(path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"labeler: plug-in {path}: plugin_")
    assert "Parity: the name 'unigram' is taken by labeler.functions.unigram.Unigram" in told


@pytest.mark.slow
def test_a_plug_in_through_every_step_on_a_model(
    model_folder: Path,
    coder_folder: Path,
    text_folder: Path,
    tmp_path: Path,
    write: Callable[..., Path],
) -> None:
    write_skeleton("start_of_word", tmp_path)
    plugin = tmp_path / "start_of_word.py"
    done = labeler(
        *("run", "-q", "--model", model_folder, "--coder", coder_folder, "--corpus", text_folder),
        *("--tokens", 4000, "--heldout-tokens", 1000, "--ctx-len", 32, "--rewrite-tokens", 1000),
        *("--out", tmp_path / "run", "--plugin", plugin, "--functions", "start_of_word,unigram"),
    )
    assert done.returncode == 0, done.stderr
    fresh = labeler("report", "-q", "--out", tmp_path / "run")
    assert fresh.returncode == 0, fresh.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "start_of_word" in json.dumps(summary)
    plugin.write_text(plugin.read_text() + "\n")
    with pytest.raises(RunError, match=f"the plug-in {plugin} has changed"):
        command("rewrite", "-q", "--out", tmp_path / "run")
