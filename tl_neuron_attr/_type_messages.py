"""What a type error says: what an argument may be, what it was, and what to pass in its place."""

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Union, cast, get_args, get_origin

_PLAIN: dict[Any, str] = {
    int: "an int",
    float: "a number",
    bool: "True or False",
    str: "a string",
    list: "a list",
    tuple: "a tuple",
    types.NoneType: "None",
}

_SHOWN = 60
"""Longer values are described by their type: an error message must stay readable."""


def allowed_by(hint: Any) -> str:
    """Return what a hint allows, in plain words."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _either([repr(each) for each in args])
    if origin in (Union, types.UnionType):
        return _either(list(dict.fromkeys(allowed_by(each) for each in args)))
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a tuple ({', '.join(allowed_by(each) for each in args)})"
    if origin in (Sequence, list, tuple) and args:
        return f"a {'list' if origin is Sequence else origin.__name__} whose elements are each {allowed_by(args[0])}"
    if Callable in (hint, origin):
        return "a function"
    if hasattr(hint, "dim_str"):
        kind = getattr(hint, "__name__", "").split("[")[0].lower() or "any"
        return f'a tensor of {kind} dtype and shape "{hint.dim_str}"'
    return _a(getattr(origin or hint, "__name__", str(hint)))


def _either(choices: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def description_of(value: Any) -> str:
    """Return what a value is, briefly: never its contents where they may be large."""
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a {str(value.dtype).removeprefix('torch.')} {kind} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (str, int, float)):
        return shown if len(shown := repr(value)) <= _SHOWN else f"{shown[:_SHOWN]}..."
    if isinstance(value, (list, tuple)):
        return f"a {kind} ({', '.join(_kinds(cast('Sequence[Any]', value)))})"
    return _a(kind)


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _kinds(values: Sequence[Any]) -> Iterator[str]:
    yield from (type(each).__name__ for each in values[:4])
    if len(values) > 4:
        yield f"... {len(values)} in all"


def advice_on(value: Any, hint: Any) -> str:
    """Return what to pass in place of the mistakes made most."""
    if isinstance(value, str) and len(value) <= _SHOWN and "a list" in allowed_by(hint):
        return f": write [{value!r}]"
    names = [getattr(each, "__name__", "") for each in (get_args(hint) or (hint,))]
    if "ActivationCache" not in names:
        return ""
    if isinstance(value, dict):
        return ": wrap it as ActivationCache(entries, model)"
    return ": pass the cache, model.run_with_cache(tokens)[1]"
