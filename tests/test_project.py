"""The project as a whole: packaging map, links, import rules, sizes, promises of the documents."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("labeler", "functions", "eval")
LIMIT = 350


def read(path: str | Path) -> str:
    """Text of a file, its path counted from the root."""
    return (ROOT / path).read_text(encoding="utf-8")


def pyproject() -> dict:
    """Read pyproject.toml."""
    return tomllib.loads(read("pyproject.toml"))


def package_files(pattern: str = "*") -> Iterator[Path]:
    """Every file below labeler/ as the import system names it: labeler/functions/unigram.py."""
    for folder, subfolders, names in os.walk(ROOT / "labeler", followlinks=True):
        subfolders[:] = sorted(d for d in subfolders if d != "__pycache__" and d[0] != ".")
        for name in sorted(names):
            path = Path(folder, name).relative_to(ROOT)
            if path.match(pattern) and not name.startswith(".") and not name.endswith(".tmp"):
                yield path


def module_name(path: Path) -> str:
    """Name of a module, `labeler.functions.unigram` for labeler/functions/unigram.py."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Import(NamedTuple):
    """One imported name: `from labeler.tokens import Tokens` is ("labeler.tokens", "Tokens")."""

    module: str
    name: str | None
    line: int


def imports(path: Path) -> list[Import]:
    """Every import of a file, those inside functions and `if TYPE_CHECKING` included."""
    found = []
    for node in ast.walk(ast.parse(read(path), str(path))):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, None, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [Import(module, alias.name, node.lineno) for alias in node.names]
    return found


MODULES = {module_name(path): path for path in package_files("*.py")}
IMPORTS = {module: imports(path) for module, path in MODULES.items()}


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is the package or lies below it."""
    return name == package or name.startswith(package + ".")


def full_name(entry: Import) -> str:
    """`labeler.cli` for both `import labeler.cli` and `from labeler import cli`."""
    joined = f"{entry.module}.{entry.name}"
    return joined if entry.name and joined in MODULES else entry.module


def where(module: str, entry: Import) -> str:
    """A place to click on."""
    return f"{MODULES[module]}:{entry.line} imports {entry.module} {entry.name or ''}".rstrip()


def concrete_function_types() -> tuple[set[str], set[str]]:
    """Modules and names of the classes that derive from FunctionType, directly or not."""
    bases = {}
    home = {}
    for module, path in MODULES.items():
        if is_within(module, "labeler.functions"):
            for node in ast.walk(ast.parse(read(path))):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = {ast.unparse(base).split(".")[-1] for base in node.bases}
                    home[node.name] = module
    classes = {"FunctionType"}
    while grown := {name for name, of in bases.items() if of & classes} - classes:
        classes |= grown
    classes.discard("FunctionType")
    return {home[name] for name in classes}, classes


# -- the packaging map -----------------------------------------------------------------------------


def test_packages_of_pyproject_are_those_of_the_tree():
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    assert sorted(pyproject()["tool"]["setuptools"]["packages"]) == sorted(packages)


def test_every_folder_with_code_is_a_package():
    assert {str(p.parent) for p in MODULES.values()} == {
        str(p.parent) for p in MODULES.values() if p.name == "__init__.py"
    }


@pytest.mark.parametrize("name", ["functions", "eval"])
def test_links_point_to_the_top_level_folders(name):
    link = ROOT / "labeler" / name
    assert link.is_symlink(), (
        f"{link} must be a link: git config core.symlinks true, then check out"
    )
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name
    assert pyproject()["tool"]["setuptools"]["package-dir"][f"labeler.{name}"] == name


def test_every_data_file_is_package_data():
    patterns = pyproject()["tool"]["setuptools"]["package-data"]
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    missing = []
    for path in package_files():
        if path.suffix == ".py":
            continue
        parents = [".".join(parent.parts) for parent in path.parents]
        package = next(parent for parent in parents if parent in packages)
        folder = ROOT.joinpath(*package.split("."))
        if not any(ROOT / path in folder.glob(pattern) for pattern in patterns.get(package, [])):
            missing.append(str(path))
    assert not missing, "the wheel would lack them: add patterns to package-data in pyproject.toml"


def test_pins_are_complete_exact_and_of_no_particular_build():
    lines = read("constraints.txt").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [p for p in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.!]+", p)] == []
    assert [p for p in pins if p.startswith(("nvidia", "triton"))] == []
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["test"] + extras["dev"]
    names = {re.match(r"[A-Za-z0-9-]+", requirement).group() for requirement in wanted}
    assert names - {"labeler"} - pinned == set()


# -- who may import whom ---------------------------------------------------------------------------


def test_functions_import_the_contract_and_the_token_types_only():
    allowed = ("labeler.functions", "labeler.tokens", "labeler.errors")
    faults = [
        where(module, entry)
        for module, entries in IMPORTS.items()
        if is_within(module, "labeler.functions")
        for entry in entries
        if is_within(entry.module, "labeler")
        and not any(is_within(full_name(entry), package) for package in allowed)
    ]
    assert faults == []


def test_eval_imports_no_concrete_function_type():
    modules, classes = concrete_function_types()
    assert "labeler.functions.unigram" in modules
    assert "Unigram" in classes
    faults = [
        where(module, entry)
        for module, entries in IMPORTS.items()
        if is_within(module, "labeler.eval")
        for entry in entries
        if full_name(entry) in modules
        or (is_within(entry.module, "labeler.functions") and entry.name in {*classes, "*"})
    ]
    assert faults == []


def test_only_the_command_line_imports_the_command_line():
    faults = [
        where(module, entry)
        for module, entries in IMPORTS.items()
        if not is_within(module, "labeler.cli") and module != "labeler.__main__"
        for entry in entries
        if is_within(full_name(entry), "labeler.cli")
    ]
    assert faults == []


def test_imports_are_absolute_and_under_labeler():
    faults = [
        where(module, entry)
        for module, entries in IMPORTS.items()
        for entry in entries
        if entry.module.startswith(".") or entry.module.split(".")[0] in {"functions", "eval"}
    ]
    assert faults == []


def test_the_command_line_starts_without_the_heavy_libraries():
    if "labeler.cli" not in MODULES:
        pytest.skip("labeler/cli.py does not exist yet")
    heavy = {"torch", "transformers", "transformer_lens", "polars", "scipy", "sklearn"}
    code = (
        "import sys, labeler.cli; "
        f"print(*sorted({heavy!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "import them inside the command that needs them"


# -- the code --------------------------------------------------------------------------------------


def test_modules_are_short():
    paths = [*MODULES.values(), *(p.relative_to(ROOT) for p in ROOT.glob("benchmarks/**/*.py"))]
    lengths = {str(path): len(read(path).splitlines()) for path in paths}
    assert {path: length for path, length in lengths.items() if length > LIMIT} == {}


def test_nothing_prints_but_the_command_line():
    faults = [
        f"{path}:{node.lineno}"
        for module, path in MODULES.items()
        if not is_within(module, "labeler.cli")
        for node in ast.walk(ast.parse(read(path)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert faults == []


# -- the documents ---------------------------------------------------------------------------------


def make_targets() -> set[str]:
    """Targets of the Makefile that have a line of help."""
    return set(re.findall(r"^([a-z0-9-]+):.*?## ", read("Makefile"), re.MULTILINE))


def test_the_makefile_has_the_promised_targets():
    promised = {"demo", "test", "lint", "bench", "subject", "build", "clean", "help", "test-tl39"}
    assert promised - make_targets() == set()


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "CONTRIBUTING.md",
        *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
    ],
)
def test_commands_named_in_documents_are_make_targets(path):
    # `make x` in backticks, or a line of a code block that starts with it
    named = re.findall(r"(?:`|^\s*\$? ?)(?:\w+=\S+ )?make ([a-z0-9-]+)", read(path), re.M)
    assert set(named) - make_targets() == set()
