"""What each token adds to the text: whole characters, also where a tokenizer splits them in bytes.

Byte-level tokenizers split rare characters: a vocabulary has tokens such as ``<0xE2><0x80>`` and
``<0x99>``, together one apostrophe. A *piece* is what a token completes given the bytes pending
before it; the token that brings the last byte has the whole character as its piece. Where no bytes
are pending and none remain, the piece's number is the token's id.
"""

import codecs
import re

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import Keys
from labeler.tokens import Tokens

BROKEN = "\ufffd"
"""Piece of bytes that are no UTF-8, or whose combination the fit split did not show."""

_BYTES = re.compile(r"((?:<0x[89A-F][0-9A-F]>)+)")


def piece_ids(
    ids: npt.NDArray[np.int32],
    partial: npt.NDArray[np.bool_],
    code: npt.NDArray[np.int64],
    piece: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
) -> Keys:
    """Number of the piece that each token completes, int64 [n_ctx, ctx_len].

    Parameters
    ----------
    ids : int [n_ctx, ctx_len]
    partial : bool [n_vocab]
        Tokens that are not whole characters. Piece n_vocab is that of an unknown combination.
    code : int64 [n_known]
        ``pending * n_vocab + token``, ascending; pending bytes are numbered, 0 = none.
    piece, after : int64 [n_known]
        The piece of each, and the bytes pending after it.
    """
    out = ids.astype(np.int64)
    pending = np.zeros(len(ids), dtype=np.int64)
    for t in range(ids.shape[1] if len(code) else 0):
        rows = np.flatnonzero((pending > 0) | partial[ids[:, t]])
        wanted = pending[rows] * len(partial) + ids[rows, t]
        index = np.minimum(np.searchsorted(code, wanted), len(code) - 1)
        known = code[index] == wanted
        out[rows, t] = np.where(known, piece[index], len(partial))
        pending[rows] = np.where(known, after[index], 0)
    return out


class Pieces:
    """The pieces of a vocabulary and the fit split.

    Attributes
    ----------
    texts : list of str
        Text of each piece: tokens, then `BROKEN`, then combinations.
    tables : dict of str to array
        ``partial``, ``code``, ``piece`` and ``after`` of `piece_ids`.
    unfinished : bool [n_pieces]
        Whether bytes of a character remain after the piece.
    ids : int64 [n_ctx, ctx_len]
        Pieces of the fit split.
    """

    def __init__(self, fit: Tokens) -> None:
        self._vocab = fit.vocab
        self.texts = [*fit.vocab, BROKEN]
        self._unfinished = [False] * len(self.texts)
        self._pending = {b"": 0}
        self._number: dict[tuple[str, bool], int] = {}
        self._known: dict[int, tuple[int, int]] = {}
        partial = np.array([_BYTES.search(text) is not None for text in fit.vocab], dtype=bool)
        for token in np.flatnonzero(partial):
            self._learn(b"", int(token))
        if partial.any():
            self._learn_from(fit, partial)
        code = np.array(sorted(self._known), dtype=np.int64)
        known = np.array([self._known[int(c)] for c in code], dtype=np.int64).reshape(-1, 2)
        self.tables: dict[str, npt.NDArray[np.generic]] = {
            "partial": partial,
            "code": code,
            "piece": np.ascontiguousarray(known[:, 0]),
            "after": np.ascontiguousarray(known[:, 1]),
        }
        self.ids = piece_ids(fit.ids, partial, code, known[:, 0], known[:, 1])
        self.unfinished = np.array(self._unfinished, dtype=bool)

    def _learn_from(self, fit: Tokens, partial: npt.NDArray[np.bool_]) -> None:
        """Learn all combinations of the fit split, one position of every context at a time."""
        n_vocab = len(partial)
        pending = np.zeros(fit.n_ctx, dtype=np.int64)
        for t in range(fit.ctx_len):
            odd = (pending > 0) | partial[fit.ids[:, t]]
            rows = np.flatnonzero(odd & fit.valid[:, t])
            combined = pending[rows] * n_vocab + fit.ids[rows, t]
            codes, which = np.unique(combined, return_inverse=True)
            data = list(self._pending)
            for code in codes.tolist():
                if code not in self._known:
                    self._learn(data[code // n_vocab], code % n_vocab)
            after = np.array([self._known[code][1] for code in codes.tolist()], dtype=np.int64)
            pending[rows] = after[which]

    def _learn(self, pending: bytes, token: int) -> None:
        """Learn what a token completes after pending bytes."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text = decoder.decode(pending + _bytes_of(self._vocab[token]))
        rest = bytes(decoder.getstate()[0])
        number = self._number.setdefault((text, bool(rest)), len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
            self._unfinished.append(bool(rest))
        code = self._pending[pending] * len(self._vocab) + token
        self._known[code] = (number, self._pending.setdefault(rest, len(self._pending)))


def _bytes_of(text: str) -> bytes:
    """A token's bytes: its text with ``<0xC3>`` read as that byte."""
    parts = _BYTES.split(text)
    return b"".join(
        bytes.fromhex(part.replace("<0x", "").replace(">", ""))
        if odd % 2
        else part.encode("utf-8", "surrogatepass")
        for odd, part in enumerate(parts)
    )
