"""What the answers of a language model say; what cannot be read is a failure, never a score."""

import json
import re

import numpy as np

from labeler.arrays import Floats
from labeler.eval.llm.prompts import SCALE

LONGEST = 2000
"""Characters of an explanation; what goes on longer does not explain."""

_EXPLANATION = re.compile(r"\[EXPLANATION\][\s*_]*:[\s*_]*([^\n]*)", re.IGNORECASE)

_LIST = re.compile(r"\[[^\[\]]*\]")

_LINE = re.compile(
    r"\s*(?P<number>\d{1,6})(?:\s*[:)|=]\s*|\.?\s+)"  # 12<tab>, 12: or 12.
    r'(?:"(?:[^"\\]|\\.)*"[\s:|=,]+)?'  # the token again
    r"(?P<value>\d{1,6}(?:\.\d{1,6})?)\s*"
)


def read_explanation(answer: str) -> str | None:
    r"""The explanation in an answer: what is behind the last mark of one, on its line.

    >>> read_explanation("They are all months.\n[EXPLANATION]: Names of months.")
    'Names of months.'
    >>> read_explanation("Names of months.") is None
    True
    """
    found = _EXPLANATION.findall(answer)
    text = found[-1].strip().strip("*").strip() if found else ""
    return text if 0 < len(text) <= LONGEST else None


def read_choices(answer: str, n: int) -> list[bool] | None:
    """The last list in an answer, where it has `n` entries, each 0 or 1 (or false or true).

    >>> read_choices("Here you are: [1, 0, 1]", 3)
    [True, False, True]
    >>> read_choices("[1, 0]", 3) is None
    True
    """
    found = _LIST.findall(answer)
    if not found:
        return None
    try:
        entries = json.loads(found[-1])
    except ValueError:
        return None
    if len(entries) != n or not all(isinstance(one, int) and one in (0, 1) for one in entries):
        return None
    return [bool(one) for one in entries]


def read_activations(answer: str, n: int) -> Floats:
    r"""How strong an answer says the latent is on each of `n` tokens, float32 [n] from 0 to 10.

    NaN for a token without a line, or with one that gives no number from 0 to 10; of several lines
    about a token the last one counts. Lines about tokens that there are not are passed over.

    >>> read_activations("1\t0\n2\t10\n3\tlots", 3)
    array([ 0., 10., nan], dtype=float32)
    """
    found = np.full(n, np.nan, dtype=np.float32)
    for line in answer.splitlines():
        if (match := _LINE.fullmatch(line)) is None:
            continue
        number, value = int(match["number"]), float(match["value"])
        if 1 <= number <= n:
            found[number - 1] = value if value <= SCALE else np.nan
    return found
