"""The header of a GGUF file: what the model is, and whether the file is whole.

It is read here, in well under a second, because the `gguf` package takes ten for a large vocabulary and transformers
reads it three times. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""The format's code of each number type, as `struct` writes it."""
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
"""Where the file does not say: the format's default."""


@dataclass(frozen=True)
class GgufHeader:
    """What the head of a GGUF file says.

    Attributes:
        values: Every entry that is a number, a truth value or a string; arrays are left out.
        tensors: Shape of each tensor by name.
        size: Bytes that the whole file must have at least.
    """

    values: Mapping[str, str | int | float | bool]
    tensors: Mapping[str, tuple[int, ...]]
    size: int

    @property
    def architecture(self) -> str:
        """The architecture by the format's own name: ``"llama"``, ``"gemma3"``."""
        return str(self.values["general.architecture"])

    @property
    def n_weights(self) -> int:
        """How many weights the tensors hold."""
        return sum(prod(shape) for shape in self.tensors.values())

    @property
    def quantisation(self) -> str:
        """The name of the quantisation most tensors have: ``"Q4_1"``."""
        from gguf import LlamaFileType

        kind = self.values.get("general.file_type")
        try:
            return LlamaFileType(kind).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        except ValueError:
            return "a mixture of types"


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file.

    Raises:
        ValueError: If the file is not GGUF, of a version this cannot read, cut off or damaged.
    """
    size = path.stat().st_size
    if size < 24:  # magic, version and two counts
        raise ValueError(f"{path} is invalid as a GGUF file: it has only {size} bytes; download it again")
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file: it begins with {content[:4]!r} and not with b'GGUF'")
        try:
            header = _Reader(content).header()
        except (struct.error, UnicodeDecodeError, KeyError, IndexError, OverflowError) as error:
            raise ValueError(f"{path} is cut off or damaged within its header; download it again") from error
    if header.size > size:
        raise ValueError(
            f"{path} is cut off: its tensors end at byte {header.size:,} and the file at {size:,}; download it again"
        )
    return header


class _Reader:
    """A place in the header, moved on by every read."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at = content, 4  # behind the magic

    def header(self) -> GgufHeader:
        version = self.count("<I")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version} cannot be read: versions 2 and 3 in little-endian order can")
        n_tensors, n_values = self.count("<Q"), self.count("<Q")
        values: dict[str, str | int | float | bool] = {}
        for _ in range(n_values):
            key = self.string()
            value = self.value(self.count("<I"))
            if value is not None:
                values[key] = value
        if "general.architecture" not in values:
            raise KeyError("general.architecture")
        tensors, end = self.tensors(n_tensors)
        alignment = int(values.get("general.alignment", _ALIGNMENT)) or _ALIGNMENT
        first = -(-self.at // alignment) * alignment
        return GgufHeader(MappingProxyType(values), MappingProxyType(tensors), first + end)

    def tensors(self, count: int) -> tuple[dict[str, tuple[int, ...]], int]:
        """Return the shapes, and where the last tensor ends, counted from the first."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        shapes: dict[str, tuple[int, ...]] = {}
        end = 0
        for _ in range(count):
            name = self.string()
            shape = tuple(self.count("<Q") for _ in range(self.count("<I")))
            kind, offset = self.count("<I"), self.count("<Q")
            block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            shapes[name] = shape
            end = max(end, offset + prod(shape) // block * width)
        return shapes, end

    def value(self, kind: int) -> str | int | float | bool | None:
        """Read a value; an array is passed over."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        inner, count = self.count("<I"), self.count("<Q")
        if inner in _NUMBERS:
            self.at += count * struct.calcsize(_NUMBERS[inner])
        else:
            for _ in range(count):
                self.value(inner)
        return None

    def count(self, code: str) -> int:
        return int(self.number(code))

    def number(self, code: str) -> int | float | bool:
        (found,) = struct.unpack_from(code, self.content, self.at)
        self.at += struct.calcsize(code)
        return found

    def string(self) -> str:
        length = self.count("<Q")
        text = self.content[self.at : self.at + length]
        if len(text) < length:
            raise IndexError("a string ends behind the file")
        self.at += length
        return text.decode("utf-8")
