"""From text to the token ids that a subject reads, and back."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from labeler.arrays import Longs


class Codec(Protocol):
    """Text as tokens of the subject, without marks of beginning or end."""

    def encode(self, text: str) -> Longs:
        """Token ids of a text, int64 [n]."""
        ...

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of token ids, a leading space included."""
        ...


class TokenizerCodec:
    """The tokens of a transformers tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # Some decoders drop the space at the start of a text: here it is never at the start.
        self._anchor = self.encode("a").tolist()

    def encode(self, text: str) -> Longs:
        """Token ids of a text, int64 [n]."""
        found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.array(found, dtype=np.int64)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of token ids, a leading space included."""
        whole = self._text([*self._anchor, *(int(one) for one in ids)])
        return whole[len(self._text(self._anchor)) :]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


class VocabCodec:
    """The tokens of a vocabulary without a tokenizer: the longest that fits comes next.

    Characters that begin no token are left out.

    >>> codec = VocabCodec(("a", "b", "ab"))
    >>> codec.encode("aab!b").tolist()
    [0, 2, 1]
    >>> codec.decode([0, 2, 1])
    'aabb'
    """

    def __init__(self, vocab: Sequence[str]) -> None:
        self.vocab = vocab
        self._id = {text: number for number, text in reversed(list(enumerate(vocab)))}
        longest_first = sorted(self._id, key=len, reverse=True)
        self._token = re.compile("|".join(re.escape(text) for text in longest_first), re.DOTALL)

    def encode(self, text: str) -> Longs:
        """Token ids of a text, int64 [n]."""
        return np.array([self._id[one] for one in self._token.findall(text)], dtype=np.int64)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of token ids."""
        return "".join(self.vocab[one] for one in ids)
