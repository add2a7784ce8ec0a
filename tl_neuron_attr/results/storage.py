"""Result files: safetensors with a JSON header and a schema version; nothing in them is ever executed."""

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_neuron_attr._typechecked import unnameable
from tl_neuron_attr.results.token_text import encodable

VERSION = 1
"""The version of the files: a release that reads others says so by its number."""


def save_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``text``; the file appears whole or not at all.

    Raises:
        OSError: If the file can't be written, naming it; nothing is left behind.
    """
    header = json.dumps({"schema": f"tl_neuron_attr.{kind}", "version": VERSION, "text": text})
    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with whole(path) as partial:
        save_file(stored, partial, {"tl_neuron_attr": header})


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file in UTF-8; it appears whole or not at all.

    A lone surrogate, which no encoding can hold, is written as its escape (``\\ud800``). A device or a pipe, such as
    ``/dev/stdout``, is written to as it is.

    Raises:
        OSError: If the file can't be written, naming it; nothing is left behind.
    """
    if _is_special(Path(path)):
        with Path(path).open("w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
        return Path(path)
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


@contextmanager
def whole(path: str | Path) -> Generator[Path]:
    """Yield a name to write to, which becomes ``path`` once everything is written.

    A symbolic link is written through: the file it names is replaced, and the link stays. The file has the mode that a
    new file has here, or that of the file it replaces. The name is the process's own, so that two that save one path
    don't meet. What is neither file nor folder, such as a device, is refused: it must never be replaced by a file.

    Raises:
        OSError: If the file can't be written, naming it; nothing is left behind.
        ValueError: If no file can have such a name.
    """
    if what := unnameable(str(path)):
        raise ValueError(f"path={encodable(str(path))!r} holds {what}, which no file's name does")
    if not str(path):
        raise ValueError("path='' is empty: give the file a name")
    target = Path(os.path.realpath(path))
    if _is_special(target):
        raise OSError(f"{path} could not be written: it is no file")
    partial = target.with_name(f".{target.name[:_NAME]}.{os.getpid()}.{uuid4().hex[:8]}.partial")
    try:
        partial.touch()
        mode = (target if target.exists() else partial).stat().st_mode & 0o777
        yield partial
        partial.chmod(mode)  # safetensors makes files that only their owner can read
        partial.replace(target)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(f"{path} could not be written: {error}") from error
    except OSError as error:
        message = f"{path} could not be written: {error.strerror or error}"
        raise type(error)(*((message,) if error.errno is None else (error.errno, message))) from error
    finally:
        with suppress(NotADirectoryError):  # the folder is a file: nothing was written
            partial.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a socket."""
    return path.exists() and not path.is_file() and not path.is_dir()


_NAME = 200
"""Characters of a file's name kept in the partial one's: names are at most 255 bytes on every common system."""


def load_tensors(
    path: str | Path, kind: str, required: Mapping[str, torch.dtype | None] | None = None, optional: Sequence[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and text of a file written by :func:`save`.

    ``required`` tensors must be there, of one shape, and of the dtype given (None: any float), and no others but
    ``optional`` ones; without it any tensors are accepted.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If anything in it is not as it should be, naming the field.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no result file at {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"{path} is not a result file: {error}") from error
    text = _header(path, kind, metadata)
    if required is not None:
        _check(path, tensors, required, optional)
    return tensors, text


def require_shape(path: str | Path, tensors: Mapping[str, Tensor], field: str, shape: torch.Size) -> None:
    """Refuse an optional field that is no float of the shape it must have.

    Raises:
        ValueError: Naming the field.
    """
    tensor = tensors.get(field)
    if tensor is not None and (not tensor.is_floating_point() or tensor.shape != shape):
        raise ValueError(
            f"{path}: field {field!r} is {tensor.dtype} {tuple(tensor.shape)}, expected a float {tuple(shape)}"
        )


def require_finite_fields(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse fields that hold NaN or Inf.

    Raises:
        ValueError: Naming the first of them.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: field {name!r} holds NaN or Inf")


def string_lists(path: str | Path, text: Mapping[str, Any], field: str) -> tuple[tuple[str, ...], ...]:
    """Return ``text[field]``, lists of strings.

    Raises:
        ValueError: If it is anything else.
    """
    lists = text.get(field)
    if not isinstance(lists, list) or not all(_strings(line) for line in lists):
        raise ValueError(f"{path}: field 'text.{field}' must hold lists of strings")
    return tuple(tuple(line) for line in lists)


def string_map(
    path: str | Path, text: Mapping[str, Any], field: str, *, required: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return ``text[field]``, lists of strings by key.

    Raises:
        ValueError: If it is anything else, or a required key is missing.
    """
    lists = text.get(field)
    if not isinstance(lists, dict) or not all(_strings(line) for line in lists.values()):
        raise ValueError(f"{path}: field 'text.{field}' must map names to lists of strings")
    if missing := [key for key in required if key not in lists]:
        raise ValueError(f"{path}: field 'text.{field}' lacks {missing[0]!r}")
    return {key: tuple(line) for key, line in lists.items()}


def _strings(line: Any) -> bool:
    return isinstance(line, list) and all(isinstance(s, str) for s in line)


def _header(path: str | Path, kind: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata["tl_neuron_attr"])
        schema, version, text = header["schema"], header["version"], header["text"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the header field 'tl_neuron_attr' is missing or malformed ({error})") from error
    if schema != f"tl_neuron_attr.{kind}":
        raise ValueError(f"{path}: field 'schema' is {schema!r}, expected 'tl_neuron_attr.{kind}'")
    if type(version) is not int or version != VERSION:  # True equals 1
        raise ValueError(f"{path}: field 'version' is {version!r}, this release reads {VERSION}")
    if not isinstance(text, dict):
        raise ValueError(f"{path}: field 'text' must be an object, got {type(text).__name__}")
    return text


def _check(
    path: str | Path, tensors: Mapping[str, Tensor], required: Mapping[str, torch.dtype | None], optional: Sequence[str]
) -> None:
    if missing := [name for name in required if name not in tensors]:
        raise ValueError(f"{path}: field {missing[0]!r} is missing")
    if extra := [name for name in tensors if name not in required and name not in optional]:
        raise ValueError(f"{path}: field {extra[0]!r} is unknown")
    shape = tensors[next(iter(required))].shape
    for name, dtype in required.items():
        tensor = tensors[name]
        right = tensor.is_floating_point() if dtype is None else tensor.dtype == dtype
        if not right or tensor.shape != shape:
            raise ValueError(
                f"{path}: field {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {dtype or 'a float'} {tuple(shape)}"
            )
