"""Function types: the contract, the registry, and one module per predefined type.

Importing this package registers the predefined types.
"""

from labeler.functions import (
    bigram,
    fourgram,
    previous_token,
    subtopic,
    topic,
    trigram,
    unigram,
)
from labeler.functions.check import check_function_type
from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.registry import function_types, get_function_type, register, with_back_off

__all__ = [
    "NO_KEY",
    "FunctionType",
    "Keys",
    "State",
    "bigram",
    "check_function_type",
    "fourgram",
    "function_types",
    "get_function_type",
    "previous_token",
    "register",
    "subtopic",
    "topic",
    "trigram",
    "unigram",
    "with_back_off",
]
