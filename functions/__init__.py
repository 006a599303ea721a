"""Function types: the contract, the registry, and one module per predefined type.

Importing this package registers the predefined types: every module in this folder is imported.
"""

import importlib
import pkgutil

from labeler.functions.check import check_function_type
from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.registry import function_types, get_function_type, register, with_back_off

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "NO_KEY",
    "FunctionType",
    "Keys",
    "State",
    "check_function_type",
    "function_types",
    "get_function_type",
    "register",
    "with_back_off",
]
