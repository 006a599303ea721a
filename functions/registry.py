"""Which function types exist: built-ins, plug-ins by decorator, plug-ins by entry point."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from types import ModuleType
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
    name = cls.name
    known = _registry.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (
        cls.__module__,
        cls.__qualname__,
    ):
        home = _file_of(known)
        raise FunctionTypeError(
            f"{_where(cls)}: the name {name!r} is taken by {_where(known)}; choose another"
            + (f" (that one is in {home})" if home else "")
        )
    _registry[name] = cls
    return cls


def check_class(cls: object) -> None:
    """Check what can be checked of a function type without any text.

    Raises
    ------
    FunctionTypeError
        If it is no subclass of FunctionType, has no proper name or parent, or leaves a method
        abstract.
    """
    if not (isinstance(cls, type) and issubclass(cls, FunctionType)):
        raise FunctionTypeError(
            f"a function type is a subclass of FunctionType, not {cls!r}; write `@register` above "
            "a class, not above a function"
        )
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise FunctionTypeError(
            f"{_where(cls)}: name is {name!r}; give it a class attribute `name` in snake case, "
            'such as name = "part_of_speech"'
        )
    if cls.backs_off_to is not None and not isinstance(cls.backs_off_to, str):
        raise FunctionTypeError(
            f"{_where(cls)}: backs_off_to is {cls.backs_off_to!r}; give the name of a function "
            'type, such as backs_off_to = "unigram", or None'
        )
    for flag in ("looks_ahead", "several_keys"):
        if not isinstance(getattr(cls, flag), bool):
            raise FunctionTypeError(
                f"{_where(cls)}: {flag} is {getattr(cls, flag)!r}; give True or False"
            )
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise FunctionTypeError(
            f"{_where(cls)}: define {' and '.join(missing)}, which it leaves abstract"
        )


def check_parent(cls: type[FunctionType]) -> None:
    """Check what a type backs off to, once all types are registered.

    Raises
    ------
    FunctionTypeError
        If there is no such type, if it has several keys at a position, or in a circle.
    """
    parent = cls.backs_off_to
    below: tuple[str, ...] = (cls.name,)
    while parent is not None:
        known = function_types() | {cls.name: cls}
        if parent in below:
            raise FunctionTypeError(f"circular back-off: {' -> '.join((*below, parent))}")
        if parent not in known:
            raise FunctionTypeError(
                f"{below[-1]} backs off to {parent!r}, which is no function type; there are: "
                + ", ".join(sorted(known))
            )
        if known[parent].several_keys:
            raise FunctionTypeError(
                f"{below[-1]} backs off to {parent!r}, which has several keys at a position; back "
                "off to a type with one"
            )
        below, parent = (*below, parent), known[parent].backs_off_to


def _where(cls: type[FunctionType]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _file_of(cls: type[FunctionType]) -> str | None:
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


@contextmanager
def all_or_none(module: str, file: str) -> Iterator[list[type[FunctionType]]]:
    """Register what a module defines, in the place of what it or the file defined before.

    Yields
    ------
    list of type
        Filled at the end with the types registered inside the block. Where the block raises, the
        registry is as it was.

    Raises
    ------
    FunctionTypeError
        If the block registers none.
    """
    before = dict(_registry)
    for name, cls in before.items():
        if cls.__module__ == module or _file_of(cls) == file:
            del _registry[name]
    found: list[type[FunctionType]] = []
    try:
        yield found
        found += [cls for name, cls in _registry.items() if before.get(name) is not cls]
        if not found:
            raise FunctionTypeError("registers no function type; write `@register` above its class")
    except BaseException:
        _registry.clear()
        _registry.update(before)
        raise


def function_types() -> dict[str, type[FunctionType]]:
    """All registered function types by name, coarser before finer, plug-ins included."""
    global _entry_points_read
    if not _entry_points_read:
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            where = f"plug-in {entry.name!r} ({entry.value})"
            try:
                loaded = entry.load()
                # A module registers its types itself, by the decorator.
                if not isinstance(loaded, ModuleType):
                    register(loaded)
            except FunctionTypeError as error:
                raise FunctionTypeError(f"{where}: {error}") from error
            except Exception as error:
                raise FunctionTypeError(
                    f"{where} cannot be loaded: {type(error).__name__}: {error}; fix it or "
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
            f"unknown function type {name!r}; there are: {', '.join(sorted(known))}; a plug-in's "
            "file is named with --plugin"
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
        try:
            parent = get_function_type(name).backs_off_to
        except FunctionTypeError as error:
            if not below:
                raise
            raise FunctionTypeError(f"{below[-1]} backs off to an {error}") from error
        if parent is not None:
            add(parent, (*below, name))
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name, ())
    return ordered
