"""Check arguments of the public functions with pydantic; an error is one line in our words."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import numpy as np
from pydantic import BeforeValidator, ConfigDict, PlainValidator, ValidationError, validate_call

from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.text import well_formed

STRICT = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)

_MOST_SHOWN = 40  # characters of a wrong value
_WORDS = {  # what to give, by the type of pydantic's error
    "bool_type": "True or False",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "string_type": "a text",
    "tuple_type": "a tuple",
}

_INSTANCES = {  # what to give, by the name of the class that is wanted
    "AskRequest": "an AskRequest",
    "Bundle": "a Bundle, as open_bundle returns",
    "ImageRequest": "an ImageRequest",
}

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def _python_number(value: Any) -> Any:
    """Return a NumPy number as Python's own; any other value as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _text(value: Any) -> Any:
    return well_formed(value) if isinstance(value, str) else value


def _path(value: Any) -> str | Path:
    """Return a file's or folder's path, which may hold any bytes but zero."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise ValueError("a path or a name, as text")
    if "\0" in os.fspath(value):
        raise ValueError("a path without a zero byte")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("a path that can be a file's name") from None
    return value if isinstance(value, str) else Path(value)


Integer = Annotated[int, BeforeValidator(_python_number)]
Number = Annotated[float, BeforeValidator(_python_number)]
Flag = Annotated[bool, BeforeValidator(_python_number)]
Text = Annotated[str, BeforeValidator(_text)]
PathOrName = Annotated[str | Path, PlainValidator(_path)]


def in_range(name: str, value: float | None, least: float, most: float) -> None:
    """Raise OptionError if a value is out of range. None is in every range, NaN in none.

    Args:
        name: What the error calls the value.
        value: The value.
        least: The smallest value in range.
        most: The largest value in range.
    """
    if value is not None and not least <= value <= most:
        raise OptionError(f"{name} is {value}; give a value from {least} to {most}")


def one_line(kind: type[T]) -> type[T]:
    """Change a pydantic dataclass so that its constructor raises OptionError, and return it."""
    make = kind.__init__

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        try:
            make(self, *args, **values)
        except ValidationError as error:
            raise OptionError(_line(error, kind.__name__, [])) from None

    kind.__init__ = __init__  # type: ignore[method-assign]
    return kind


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that raises OptionError if an argument is not of its declared type."""
    validated = validate_call(config=STRICT)(function)
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: P.args, **values: P.kwargs) -> R:
        try:
            return validated(*args, **values)
        except ValidationError as error:
            name = function.__qualname__.removesuffix(".__init__")
            raise OptionError(_line(error, name, names)) from None

    return call


def _line(error: ValidationError, of: str, names: list[str]) -> str:
    """Return what is wrong first: where, what, what to give.

    Args:
        error: Pydantic's error.
        of: The function or class.
        names: The function's parameters; none of a class.
    """
    by_position, every = "unexpected_positional_argument", error.errors(include_url=False)
    first = next((each for each in every if each["type"] == by_position), every[0])
    place, kind = first["loc"], first["type"]
    if kind.startswith("missing"):
        return f"{of} has no {place[-1]}; give one"
    if kind == by_position:
        return f"{of} takes {shown(first['input'])} by its name only; write NAME=VALUE"
    if kind.startswith("unexpected_keyword"):
        return f'{of} takes no "{place[-1]}"; help(janus_edge.{of}) says what it takes'
    words = _WORDS.get(kind)
    if kind in ("is_instance_of", "dataclass_exact_type"):
        wanted = str(first["ctx"].get("class") or first["ctx"].get("class_name"))
        words = _INSTANCES.get(wanted, f"an instance of {wanted}")
    if words is None:
        words = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{of}: {_name(place, names)} is {shown(first['input'])}; give {words}"


def _name(place: tuple[int | str, ...], names: list[str]) -> str:
    """Return "history[2]": a parameter and the positions in it.

    The names that pydantic gives a union's choices are left out.
    """
    first = names[place[0]] if isinstance(place[0], int) else place[0]
    return first + "".join(f"[{each}]" for each in place[1:] if isinstance(each, int))


def shown(value: Any) -> str:
    """Return a wrong value on one line, with its type."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a caller's own class
        text = "?"
    if len(text) > _MOST_SHOWN:
        text = f"{text[:_MOST_SHOWN]}…"
    return f"{text} ({type(value).__name__})"
