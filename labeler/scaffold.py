"""The skeleton of a plug-in: a function type that works, and its test."""

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template

from labeler.errors import DiskError, OptionError
from labeler.functions import function_types

_MODULE = Template('''\
"""The function type $name.

It works as it is: its key says whether a token begins a word. Change `prepare`,
`keys_of` and `render`, and what else follows from that. `source` and `write` may go.
"""

import numpy as np
from labeler.functions import FunctionType, Keys, State, register
from labeler.functions.source import export_source
from labeler.tokens import Tokens


def keys_of(ids, table):
    """Key at every position, int64 [n_ctx, ctx_len]; -1 = none.

    Exported labels hold a copy of this function: it may use numpy (as np), and what
    it is given.
    """
    return table[ids]


@register
class $cls(FunctionType):
    """Whether the token begins with a space."""

    name = "$name"
    backs_off_to = None  # or the name of a coarser type

    def prepare(self, tokens: Tokens) -> None:
        """Make from the vocabulary and the fit split what the keys need."""
        self.table = np.array(
            [
                int(text.startswith(" ")) if any(map(str.isalnum, text)) else -1
                for text in tokens.vocab
            ],
            dtype=np.int64,
        )

    def state(self) -> State:
        """Everything that `prepare` made, as arrays; saved with the labels."""
        return {"table": self.table}

    def load_state(self, state: State) -> None:
        """Restore it."""
        self.table = state["table"]

    def keys(self, tokens: Tokens) -> Keys:
        """Key at every position; reads nothing that comes later."""
        return keys_of(tokens.ids, self.table)

    def render(self, key: int) -> str:
        """What the label says after "fires on"."""
        return "the start of a word" if key else "a later part of a word"

    def source(self) -> str:
        """Python for exported labels."""
        return export_source(self.name, keys_of, self.state())

    def write(self, ids, pos, key):
        """Copy of a context [ctx_len] with this key at `pos`; None where that fails."""
        edited = ids.copy()
        edited[pos] = np.flatnonzero(self.table == key)[0]
        return edited
''')

_TEST = Template('''\
"""Tests of the function type $name."""

from pathlib import Path

import numpy as np
from labeler.functions import check_function_type
from labeler.plugins import load_plugin
from labeler.tokens import Tokens

($cls,) = load_plugin(Path(__file__).with_name("$name.py")).types

VOCAB = (" The", " cat", "s", ".", " Rome")


def text(*rows):
    """Contexts written out by hand, a document each, all of the fit split."""
    n = len(rows)
    return Tokens(
        ids=np.array(rows, dtype=np.int32),
        length=np.full(n, len(rows[0]), dtype=np.int32),
        doc=np.arange(n, dtype=np.int32),
        fold=(np.arange(n) % 5).astype(np.int8),
        doc_ids=tuple(str(number) for number in range(n)),
        topics=((),) * n,
        topic_levels=(),
        vocab=VOCAB,
    )


def test_keys_by_hand():
    tokens = text([0, 1, 2, 3, 4])  # " The cats. Rome"
    kind = $cls()
    kind.prepare(tokens)
    assert kind.keys(tokens).tolist() == [[1, 1, 0, -1, 1]]
    assert kind.render(1) == "the start of a word"


def test_contract():
    check_function_type($cls)
    tokens = text([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 3, 1, 1, 0])
    check_function_type($cls, tokens)
''')


def write_skeleton(name: str, folder: Path) -> tuple[Path, Path]:
    """Write ``<name>.py`` and ``test_<name>.py``.

    Raises
    ------
    OptionError
        If the name is no proper one or is taken, or one of the files is there.
    DiskError
        If the folder cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise OptionError(
            f"{name!r} is no name for a function type; give one in snake case, such as "
            "part_of_speech"
        )
    known = function_types().get(name)
    if known is not None:
        raise OptionError(
            f"the name {name!r} is taken by {known.__module__}.{known.__qualname__}; choose another"
        )
    module, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (module, test):
        if path.exists():
            raise OptionError(f"{path} is there already; choose another name, or move it away")
    if importlib.util.find_spec(name) is not None:
        raise OptionError(
            f"{name!r} is the name of a Python module that {module} would hide; choose another"
        )
    cls = "".join(part.capitalize() for part in name.split("_"))
    try:
        for path, template in ((module, _MODULE), (test, _TEST)):
            path.write_text(template.substitute(name=name, cls=cls), encoding="utf-8")
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}; go to another folder") from error
    return module, test
