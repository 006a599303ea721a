"""Texts as two arrays of numbers, for the state of function types.

An array of numpy strings takes four bytes for every character of the longest text in every place:
a vocabulary with one token of 128 spaces, saved so, is a hundred times its size. It also drops
characters NUL at the end of a text.
"""

from collections.abc import Sequence

import numpy as np

from labeler.functions.contract import State


def pack_texts(name: str, texts: Sequence[str]) -> State:
    """Arrays ``<name>_utf8``, uint8 [n_bytes], and ``<name>_ends``, int64 [n_texts]."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {
        f"{name}_utf8": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        f"{name}_ends": np.cumsum([len(text) for text in encoded], dtype=np.int64),
    }


def unpack_texts(name: str, state: State) -> tuple[str, ...]:
    r"""The texts that `pack_texts` packed.

    >>> unpack_texts("word", pack_texts("word", ["one", "", "\0"]))
    ('one', '', '\x00')
    """
    data = state[f"{name}_utf8"].tobytes()
    ends = [int(end) for end in state[f"{name}_ends"]]
    return tuple(
        data[start:end].decode("utf-8", "surrogatepass")
        for start, end in zip([0, *ends], ends, strict=False)
    )
