"""Labels as plain Python: one file that needs numpy and nothing of labeler.

Usage of an exported file::

    predict(ids)   # int array [n_ctx, ctx_len] -> float32 [n_ctx, ctx_len]
    fires(ids)     # -> bool [n_ctx, ctx_len]
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from labeler.errors import LabelError

if TYPE_CHECKING:
    from labeler.labels import Budget, LabelSet

_MAIN = '''
def predict(ids):
    """Predicted activation of every token, float32 [n_ctx, ctx_len]."""
    ids = np.asarray(ids)
    out = np.full(ids.shape, DEFAULT, dtype=np.float32)
    keys = {name: function(ids) for name, function in KEYS.items()}
    node = {}
    for level, parent, name in LEVELS:
        # One column per key that a position may have.
        found = keys[name].reshape(*ids.shape, -1)
        path = node[parent] if parent else np.zeros((*ids.shape, 1), dtype=np.int64)
        here = np.full(found.shape, -1, dtype=np.int64)
        more = np.zeros(found.shape, dtype=np.float32)
        for (above, key), (number, added) in TABLES[level].items():
            at = (path == above) & (found == key)
            here[at], more[at] = number, added
        for place in range(found.shape[-1]):
            out += more[..., place]
        node[level] = here
    return np.maximum(out, 0)


def fires(ids):
    """Where the label says that the latent fires, bool [n_ctx, ctx_len]."""
    return predict(ids) >= np.float32(THRESHOLD)
'''


def label_source(labels: "LabelSet", latent: int, budget: "Budget") -> str:
    """Python source of one latent's label.

    Raises
    ------
    LabelError
        For the unlimited budget (a table of every key seen is no program to read), or where a
        function type has no source.
    """
    if budget == "unlimited":
        raise LabelError(
            "budget 'unlimited' cannot be exported as source: its table holds every key of the "
            "fit split; export 16 or 100, or run it through LabelSet.predictor"
        )
    label = labels.label(latent)
    predictor = labels.predictor(budget)
    tree = labels.tree
    mine = labels.entries.filter((pl.col("budget") == budget) & (pl.col("latent") == latent))
    used = {up for name in mine["level"].unique() for up in tree.chain(name)}
    chain = [name for name in tree.levels if name in used]
    # Every node on the way to a kept one, children before parents, so that paths can be followed.
    wanted: dict[str, set[int]] = {
        name: set(mine.filter(pl.col("level") == name)["node"].to_list()) for name in chain
    }
    for name in reversed(chain):
        parent = tree.levels[name].parent_name
        if parent is not None:
            parents = tree.levels[name].parent
            wanted[parent] |= {int(parents[node]) for node in wanted[name]}
    types = list(dict.fromkeys(tree.levels[name].type_name for name in chain))
    functions = []
    for name in types:
        source = tree.types[name].source()
        if source is None:
            raise LabelError(f"function type {name!r} has no source(); its labels stay in labeler")
        functions.append(source)
    tables = [_table(labels, budget, latent, name, sorted(wanted[name])) for name in chain]
    triples = [(name, tree.levels[name].parent_name, tree.levels[name].type_name) for name in chain]
    title = f"{labels.hookpoint} latent {latent}: {label.text}".replace("\\", "\\\\")
    title = title.replace('"""', "'''")
    return "\n\n".join(
        [
            f'"""{title}\n\nExported by labeler at a budget of {budget} keys.\n"""',
            "import numpy as np",
            *functions,
            f"DEFAULT = {float(predictor.default[latent])!r}\n"
            f"THRESHOLD = {float(predictor.threshold[latent])!r}\n".replace("inf", 'float("inf")')
            + "# level, the level it refines, the function whose keys it has\n"
            + f"LEVELS = {triples!r}\n"
            + "KEYS = {"
            + ", ".join(f"{name!r}: keys_{name}" for name in types)
            + "}\n"
            + "# level -> (parent node, key) -> (node, what it adds to the prediction)\n"
            + "TABLES = {\n"
            + "".join(tables)
            + "}",
            _MAIN.lstrip("\n"),
        ]
    )


def _table(labels: "LabelSet", budget: "Budget", latent: int, name: str, nodes: list[int]) -> str:
    level = labels.tree.levels[name]
    table = labels.predictor(budget).extra.get(name)
    lines = [f"    {name!r}: {{\n"]
    keys, parents = level.key, level.parent
    for node in nodes:
        added = 0.0
        if table is not None:
            span = slice(int(table.start[node]), int(table.start[node + 1]))
            hit = np.flatnonzero(table.latent[span] == latent)
            if len(hit):
                added = float(np.float32(table.value[span][hit[0]]))
        shown = labels.tree.text(name, node).replace("\n", " ")
        lines.append(
            f"        ({int(parents[node])}, {int(keys[node])}): ({node}, {added!r}),  # {shown}\n"
        )
    lines.append("    },\n")
    return "".join(lines)
