"""Which function types exist: built-ins, plug-ins by decorator, plug-ins by entry point."""

import re
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import TypeVar

from labeler.errors import FunctionTypeError
from labeler.functions.contract import FunctionType

ENTRY_POINT_GROUP = "labeler.functions"

_registry: dict[str, type[FunctionType]] = {}
_entry_points_read = False

F = TypeVar("F", bound=type[FunctionType])


def register(cls: F | None = None) -> F:
    """Register a function type; use as a class decorator, without parentheses.

    Raises
    ------
    FunctionTypeError
        If the class breaks the contract or its name is taken.
    """
    if cls is None:
        raise FunctionTypeError("write `@register` above the class, without parentheses")
    check_class(cls)
    where, name = f"{cls.__module__}.{cls.__qualname__}", cls.name
    known = _registry.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (
        cls.__module__,
        cls.__qualname__,
    ):
        raise FunctionTypeError(
            f"{where}: the name {name!r} is taken by {known.__module__}.{known.__qualname__}; "
            "choose another"
        )
    _registry[name] = cls
    return cls


def check_class(cls: object) -> None:
    """Check what can be checked of a function type without any text.

    Raises
    ------
    FunctionTypeError
        If it is no subclass of FunctionType, has no proper name, or leaves a method abstract.
    """
    if not (isinstance(cls, type) and issubclass(cls, FunctionType)):
        raise FunctionTypeError(
            f"a function type is a subclass of FunctionType, not {cls!r}; write `@register` above "
            "a class, not above a function"
        )
    where = f"{cls.__module__}.{cls.__qualname__}"
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise FunctionTypeError(
            f"{where}: name is {name!r}; give it a class attribute `name` in snake case, "
            'such as name = "part_of_speech"'
        )
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise FunctionTypeError(
            f"{where}: define {' and '.join(missing)}, which it leaves abstract"
        )


def function_types() -> dict[str, type[FunctionType]]:
    """All registered function types by name, coarser before finer, plug-ins included."""
    global _entry_points_read
    if not _entry_points_read:
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            try:
                register(entry.load())
            except FunctionTypeError:
                raise
            except Exception as error:
                raise FunctionTypeError(
                    f"plug-in {entry.name!r} ({entry.value}) cannot be loaded: {error}; fix it or "
                    "uninstall the distribution that declares it"
                ) from error
        _entry_points_read = True
    return dict(_registry)


def get_function_type(name: str) -> type[FunctionType]:
    """Look a function type up by name.

    Raises
    ------
    FunctionTypeError
        If there is none; the message lists those that exist.
    """
    known = function_types()
    if name not in known:
        raise FunctionTypeError(
            f"unknown function type {name!r}; there are: {', '.join(sorted(known))}"
        )
    return known[name]


def with_back_off(names: Iterable[str]) -> list[str]:
    """Names and all they back off to, every parent before its children.

    Raises
    ------
    FunctionTypeError
        For an unknown name or a circle of back-offs.
    """
    ordered: list[str] = []

    def add(name: str, below: tuple[str, ...]) -> None:
        if name in below:
            raise FunctionTypeError(f"circular back-off: {' -> '.join((*below, name))}")
        parent = get_function_type(name).backs_off_to
        if parent is not None:
            add(parent, (*below, name))
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name, ())
    return ordered
