"""The text of every token id, for rendering labels."""

from functools import cache
from typing import Any

_SPACE_MARK = "\u2581"
"""SentencePiece writes a leading space as this."""


def vocab_texts(tokenizer: Any, size: int) -> tuple[str, ...]:
    r"""Text of each token id.

    Pieces that are no complete UTF-8 sequence are written byte by byte (``<0xC3>``); ids without
    any text as their piece or ``<id 17>``.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The tokenizer.
    size : int
        Size of the model's vocabulary, which may exceed the tokenizer's.

    Returns
    -------
    tuple of str
        Length `size`, none empty.
    """
    known = range(min(size, len(tokenizer)))
    pieces = tokenizer.convert_ids_to_tokens(list(known))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        decoded = [tokenizer.decode([index]) for index in known]
    else:
        # One call into Rust: a loop of decode() takes seconds for 100 k ids.
        decoded = backend.decode_batch([[index] for index in known], skip_special_tokens=False)
    texts = [
        _text(index, piece, text) for index, piece, text in zip(known, pieces, decoded, strict=True)
    ]
    return (*texts, *(f"<id {index}>" for index in range(len(texts), size)))


def _text(index: int, piece: str | None, text: str) -> str:
    if "\ufffd" in text and piece is not None:
        return _bytes_text(piece)
    if piece is not None and piece.startswith(_SPACE_MARK):
        # SentencePiece decoders drop one space at the start of a text.
        n_spaces = len(piece) - len(piece.lstrip(_SPACE_MARK))
        return " " * n_spaces + text.lstrip(" ")
    return text or piece or f"<id {index}>"


def _bytes_text(piece: str) -> str:
    """Render a byte-level piece that is no complete UTF-8 sequence."""
    table = _byte_table()
    if not all(char in table for char in piece):
        return piece
    data = bytes(table[char] for char in piece)
    return "".join(
        f"<0x{ord(char) - 0xDC00:02X}>" if 0xDC80 <= ord(char) <= 0xDCFF else char
        for char in data.decode("utf-8", "surrogateescape")
    )


@cache
def _byte_table() -> dict[str, int]:
    """GPT-2's map from the characters of byte-level BPE pieces to bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    table.update({chr(256 + rank): byte for rank, byte in enumerate(others)})
    return table
