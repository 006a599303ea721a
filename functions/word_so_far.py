"""The word so far as a text at every position: for plug-ins that look words up.

Plain and short rather than fast: about a second for a million positions. `word_table` and
`char_machine` are what the built-in types use.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeler.functions.words import split

MAX_LENGTH = 40
"""Longer runs inside one token are no words, and are left out of the table of texts."""


def word_ends(
    vocab: Sequence[str],
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.bool_]]:
    """The run of word characters at the end of each token, and whether it is all of the token.

    Such a token continues the word before it. A character that the tokenizer splits into bytes
    ends the word.

    Returns
    -------
    str [n_vocab]
    bool [n_vocab]

    Examples
    --------
    >>> word_ends([" run", "ning", ". "])
    (array(['run', 'ning', ''], dtype='<U4'), array([False,  True, False]))
    """
    splits = [split(text) for text in vocab]
    tail = [word.tail if len(word.tail) <= MAX_LENGTH else "" for word in splits]
    return np.array(tail, dtype=np.str_), np.array([word.whole for word in splits], dtype=np.bool_)


def words_so_far(
    ids: npt.NDArray[np.integer], tail: npt.NDArray[np.str_], joins: npt.NDArray[np.bool_]
) -> npt.NDArray[np.object_]:
    """The word up to the end of each token, str [n_ctx, ctx_len]; "" = the token ends in none.

    `tail` and `joins` come from `word_ends`. Needs only numpy, so that it can be a helper of an
    exported source.
    """
    texts = tail.astype(object)
    word = np.full(len(ids), "", dtype=object)
    out = np.empty(ids.shape, dtype=object)
    for t in range(ids.shape[1]):
        text = texts[ids[:, t]]
        word = np.where(joins[ids[:, t]], word + text, text)
        out[:, t] = word
    return out
