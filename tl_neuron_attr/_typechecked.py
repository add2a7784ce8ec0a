"""Types and shapes of what users pass in and get back, checked at the door of every public function.

jaxtyping judges tensors and beartype everything that is not written out here (``no_type_check``: a checker that checks
itself would start its count of axes anew). What they would say about a violation can
run to thousands of lines and take seconds to write, since it prints the value; here it is at most three lines.
"""

import operator
import re
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, wraps
from inspect import BoundArguments, Parameter, signature
from pathlib import PurePath
from typing import (
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
    no_type_check,
)

from beartype.door import is_bearable
from jaxtyping import jaxtyped
from torch.nn import Module

from tl_neuron_attr._turns import turn_on
from tl_neuron_attr._type_messages import advice_on, allowed_by, description_of

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_NO = object()
"""What :func:`_read` returns where a value does not fit."""

_MODELS = ("model", "other", "other_model")
"""Parameters that take a model, of whatever class: what they all have is ``cfg``."""

_AT_LEAST_ONE = ("batch_size", "max_bytes", "copies")
"""Parameters that mean the same wherever they stand: below one there is nothing to work with."""

_PATHS = ("path", "folder", "out")
"""Parameters that name a file or folder wherever they stand."""

_LONGEST_PATH = 4096
"""Characters of a path that Linux takes, and more than other systems do."""

_NOT_IN_A_NAME = re.compile("[\0\ud800-\udfff]")
"""Characters that no file's name holds."""

_LARGEST = 2**62
"""Larger integers overflow in torch."""


def typechecked(function: Callable[P, R]) -> Callable[P, R]:
    """Enforce the annotations of a public function.

    Integers of numpy and torch (``logits.argmax()``, of no dimension) count as ints; True and False do not. A string is
    no list of strings. Every element of a list is looked at, not a random one. What is called ``model`` must be one,
    and threads that share it take turns.

    The decorated function raises ``TypeError``, three lines at most, naming the argument, what it was and what it may
    be, and ``ValueError`` where ``batch_size``, ``max_bytes`` or ``copies`` is below one.
    Costs some 20 microseconds a call.

    Examples:
        >>> from typing import Literal
        >>> @typechecked
        ... def greet(tone: Literal["kind", "curt"]) -> str:
        ...     return tone
        >>> greet("loud")
        Traceback (most recent call last):
        TypeError: greet: tone must be 'kind' or 'curt', got 'loud'
    """
    door = _Door(function)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        with jaxtyped("context"):  # axes of one name have one size within a call
            bound = door.arguments(args, kwargs)
            model = bound.arguments.get("model")
            with turn_on(model) if isinstance(model, Module) else nullcontext():
                return door.result(function(*bound.args, **bound.kwargs))

    return checked


def typechecked_fields(cls: type[T]) -> type[T]:
    """Enforce the annotations of a dataclass's fields where an object is made, as :func:`typechecked` does.

    The decorated class raises ``TypeError``, three lines at most, naming the field, what it was and what it may be.

    Examples:
        >>> from dataclasses import dataclass
        >>> @typechecked_fields
        ... @dataclass(frozen=True)
        ... class Fact:
        ...     subject: str
        >>> Fact(3)
        Traceback (most recent call last):
        TypeError: Fact: subject must be a string, got 3
    """
    made = cls.__init__
    door = _Door(made, cls.__name__)

    @wraps(made)
    def checked(self: T, *args: Any, **kwargs: Any) -> None:
        with jaxtyped("context"):
            bound = door.arguments((self, *args), kwargs)
            made(*bound.args, **bound.kwargs)

    setattr(cls, "__init__", checked)  # noqa: B010 (a plain assignment to a method is an error to type checkers)
    return cls


def unnameable(path: str) -> str | None:
    """Return what a path holds that no file's name does; None for nothing.

    Examples:
        >>> unnameable("a/b.html"), unnameable("a\\0b")
        (None, 'a NUL')
    """
    found = _NOT_IN_A_NAME.search(path)
    return None if found is None else "a NUL" if found[0] == "\0" else "a lone surrogate"


@no_type_check
class _Door:
    """What a function takes and returns; annotations are looked up at its first call, when every module is loaded."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self._function, self._name = function, name or function.__name__
        self._parameters = signature(function)
        self._starred = {p.name: p.kind for p in self._parameters.parameters.values()}

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self._function, include_extras=True)
        except NameError:  # an annotation for type checkers only
            return {k: v for k, v in self._function.__annotations__.items() if not isinstance(v, str)}

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BoundArguments:
        """Return the arguments, integers of other libraries made ints.

        Raises:
            TypeError: If one is missing, unknown or of another type.
        """
        try:
            bound = self._parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}: {error}") from None
        for name, value in bound.arguments.items():
            kind = self._starred[name]
            if kind is Parameter.VAR_KEYWORD:
                bound.arguments[name] = self._options(name, value)
            elif kind is Parameter.VAR_POSITIONAL:
                hint = self._hints.get(name, Any)
                bound.arguments[name] = tuple(self._one(f"{name}[{i}]", v, hint) for i, v in enumerate(value))
            elif name != "self":
                bound.arguments[name] = self._one(name, value, self._hints.get(name, Any))
        return bound

    def result(self, value: R) -> R:
        """Return the result, refused if it is not what the function promises.

        Raises:
            TypeError: If it is not: a fault of the package.
        """
        hint = self._hints.get("return", Any)
        if hint is not Any and not is_bearable(value, hint):
            raise TypeError(f"{self._name}: the return value must be {allowed_by(hint)}, got {description_of(value)}")
        return value

    def _options(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``**options`` holds, each of its type where a typed dict lists them."""
        hint = self._hints.get(name, Any)
        listed = next((each for each in get_args(hint) if is_typeddict(each)), None)
        if listed is None:
            return {key: self._one(key, value, hint) for key, value in values.items()}
        known = get_type_hints(listed, include_extras=True)
        for key in values:
            if key not in known:
                raise TypeError(f"{self._name}: got an unexpected keyword argument {key!r}, may be {', '.join(known)}")
        return {key: self._one(key, value, known[key]) for key, value in values.items()}

    def _one(self, name: str, value: Any, hint: Any) -> Any:
        if hint is Any and name in _MODELS:
            self._require_model(name, value)
            return value
        found = _read(value, hint)
        if found is _NO:
            place, wrong, wanted = _culprit(name, value, hint)
            raise TypeError(
                f"{self._name}: {place} must be {allowed_by(wanted)}, got {description_of(wrong)}"
                f"{advice_on(wrong, wanted)}"
            )
        if name in _AT_LEAST_ONE and found is not None and not 1 <= found <= _LARGEST:
            raise ValueError(f"{self._name}: {name} must be between 1 and 2**62, got {found}")
        if name in _PATHS and isinstance(found, str | PurePath):
            self._require_name(name, str(found))
        return found

    def _require_name(self, name: str, path: str) -> None:
        if not path:
            raise ValueError(f"{self._name}: {name} is empty: name a file or folder, or '.' for the one you are in")
        if len(path) > _LONGEST_PATH:
            raise ValueError(f"{self._name}: {name} has {len(path)} characters, no file system takes that many")
        if what := unnameable(path):
            raise ValueError(f"{self._name}: {name}={path[:40]!r} holds {what}, which no file's name does")

    def _require_model(self, name: str, value: Any) -> None:
        optional = value is None and self._parameters.parameters[name].default is None
        if not optional and not hasattr(value, "cfg"):
            raise TypeError(f"{self._name}: {name} must be a TransformerBridge, got {description_of(value)}")


@no_type_check
def _read(value: Any, hint: Any) -> Any:
    """Return ``value`` as ``hint`` asks for it, or ``_NO``."""
    if hint is Any:
        return value
    if hint in (int, float, bool):
        return _number(value, hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((found for each in args if (found := _read(value, each)) is not _NO), _NO)
    if origin is Literal:
        return value if any(type(value) is type(each) and value == each for each in args) else _NO
    if origin in (Sequence, list, tuple) and args:
        return _elements_read(value, origin, args)
    if origin is Mapping and args:
        if not isinstance(value, Mapping):
            return _NO
        entries = cast("Mapping[Any, Any]", value).items()
        return value if all(_read(k, args[0]) is not _NO and _read(v, args[1]) is not _NO for k, v in entries) else _NO
    return value if is_bearable(value, hint) else _NO


@no_type_check
def _number(value: Any, hint: type) -> Any:
    kind = str(getattr(value, "dtype", ""))
    if isinstance(value, bool) or kind.endswith("bool"):
        return bool(value) if hint is bool and getattr(value, "ndim", 0) == 0 else _NO
    if hint is bool or getattr(value, "ndim", 0) != 0:
        return _NO
    if isinstance(value, (int, float)) and (hint is float or isinstance(value, int)):
        return value
    try:
        return float(value) if hint is float and "float" in kind else operator.index(cast("int", value))
    except TypeError:
        return _NO


@no_type_check
def _elements_read(value: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, origin) or isinstance(value, (str, bytes)):
        return _NO
    given = cast("Sequence[Any]", value)
    hints = _of_elements(origin, args, len(given))
    if hints is None:
        return _NO
    read: list[Any] = []
    for each, hint in zip(given, hints, strict=True):
        found = _read(each, hint)
        if found is _NO:
            return _NO
        read.append(found)
    if all(a is b for a, b in zip(read, given, strict=True)):
        return given
    return tuple(read) if isinstance(given, tuple) else read


def _of_elements(origin: Any, args: tuple[Any, ...], length: int) -> list[Any] | None:
    """Return the hint of each of ``length`` elements; None where there must be another number."""
    if origin is tuple and args[-1] is not Ellipsis:
        return list(args) if len(args) == length else None
    return [args[0]] * length


def _culprit(name: str, value: Any, hint: Any) -> tuple[str, Any, Any]:
    """Return the innermost wrong thing: its place, itself, and what it must be."""
    if isinstance(value, (list, tuple)):
        given = cast("Sequence[Any]", value)
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        lists = [each for each in members if get_origin(each) in (Sequence, list, tuple)]
        fitting = [each for each in lists if isinstance(given, get_origin(each))]
        if len(lists) == len(fitting) == 1:
            inner = _of_elements(get_origin(lists[0]), get_args(lists[0]), len(given))
            for i, (each, own) in enumerate(zip(given, inner or [], strict=False)):
                if _read(each, own) is _NO:
                    return _culprit(f"{name}[{i}]", each, own)
    return name, value, hint
