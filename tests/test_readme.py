"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import numpy as np

from labeler.functions import function_types
from labeler.functions.registry import _registry
from labeler.tokens import Tokens

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_function_type_of_the_readme_passes_its_own_check() -> None:
    (source,) = [block for block in BLOCKS if "@register" in block]
    try:
        space: dict[str, object] = {}
        exec(compile(source, "README.md", "exec"), space)
        kind = function_types()["after_newline"]()
        ids = np.array([[0, 1, 2, 1]], dtype=np.int32)
        tokens = Tokens(
            ids,
            np.array([4], np.int32),
            np.array([0], np.int32),
            np.array([0], np.int8),
            ("a",),
            ((),),
            (),
            ("x", "y\n", "z"),
        )
        kind.prepare(tokens)
        assert kind.keys(tokens).tolist() == [[-1, 0, 1, 0]]
        assert kind.render(1) == "the start of a line"
    finally:
        _registry.pop("after_newline", None)


def test_every_command_of_the_readme_exists() -> None:
    from labeler.cli import app

    commands = {command.name for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    named = set(re.findall(r"(?:`|\$ )labeler ([a-z]+)\b", README))
    assert named
    assert named <= commands
