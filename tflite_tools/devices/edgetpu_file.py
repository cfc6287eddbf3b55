"""What the Edge TPU compiler left in a `*_edgetpu.tflite`: bytes of parameters and instructions. No hardware is needed.

The custom operator carries a flatbuffer "DWN1", whose schema is public: `executable/executable.fbs` in
github.com/google-coral/edgetpu. Field numbers are those of that schema. Its cycle fields are 0 in all
public files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tflite_tools.errors import TfliteFileError

CUSTOM_OP = "edgetpu-custom-op"
_IDENTIFIER = b"DWN1"
_TYPES = ("stand-alone", "parameter-caching", "execution-only")


@dataclass(frozen=True)
class Executable:
    """One part of a compiled model; parameters of "parameter-caching" stay on the chip, the others are streamed."""

    kind: str
    parameter_bytes: int
    instruction_bytes: int
    scratch_bytes: int


@dataclass(frozen=True)
class CompiledFile:
    """All parts of a compiled file."""

    compiler: str
    min_runtime: int
    executables: tuple[Executable, ...]

    @property
    def cached_bytes(self) -> int:
        """Parameters that stay on the chip."""
        return sum(part.parameter_bytes for part in self.executables if part.kind == "parameter-caching")

    @property
    def streamed_bytes(self) -> int:
        """Parameters that are fetched for every inference."""
        return sum(part.parameter_bytes for part in self.executables if part.kind != "parameter-caching")


def read_compiled(data: bytes) -> CompiledFile:
    """Reads the first package of a compiled file.

    Raises:
        TfliteFileError: there is none, or it is damaged.
    """
    place = data.find(_IDENTIFIER)
    if place < 4:
        raise TfliteFileError(f"The file holds no '{CUSTOM_OP}': it was not compiled by edgetpu_compiler.")
    try:
        package = _root(data[place - 4 :])
        executables = tuple(_executable(_root(text)) for text in _strings(_root(_bytes(package, 1)), 0))
        return CompiledFile(_bytes(package, 4).decode("ascii", "replace"), _scalar(package, 0, "i"), executables)
    except (struct.error, LookupError, ValueError, TypeError) as error:
        raise TfliteFileError(f"The package of the Edge TPU compiler is damaged: {type(error).__name__}.") from error


def _executable(table: Any) -> Executable:
    kind = _scalar(table, 13, "h")
    return Executable(
        kind=_TYPES[kind] if 0 <= kind < len(_TYPES) else "unknown",
        parameter_bytes=len(_bytes(table, 6)),
        instruction_bytes=sum(len(_bytes(stream, 0)) for stream in _tables(table, 5)),
        scratch_bytes=_scalar(table, 4, "i"),
    )


def _root(data: bytes) -> Any:
    from flatbuffers.table import Table

    return Table(data, struct.unpack_from("<I", data)[0])


def _field(table: Any, number: int) -> int:
    return int(table.Offset(4 + 2 * number))


def _scalar(table: Any, number: int, code: str) -> int:
    offset = _field(table, number)
    return struct.unpack_from(f"<{code}", table.Bytes, table.Pos + offset)[0] if offset else 0


def _bytes(table: Any, number: int) -> bytes:
    offset = _field(table, number)
    if not offset:
        return b""
    start, length = table.Vector(offset), table.VectorLen(offset)
    if start + length > len(table.Bytes):
        raise IndexError("a vector ends behind the file")
    return bytes(table.Bytes[start : start + length])


def _tables(table: Any, number: int) -> Iterator[Any]:
    from flatbuffers.table import Table

    offset = _field(table, number)
    start, count = (table.Vector(offset), table.VectorLen(offset)) if offset else (0, 0)
    for place in range(start, start + 4 * count, 4):
        yield Table(table.Bytes, table.Indirect(place))


def _strings(table: Any, number: int) -> Iterator[bytes]:
    offset = _field(table, number)
    start, count = (table.Vector(offset), table.VectorLen(offset)) if offset else (0, 0)
    for place in range(start, start + 4 * count, 4):
        begin = place + struct.unpack_from("<I", table.Bytes, place)[0]
        length = struct.unpack_from("<I", table.Bytes, begin)[0]
        if begin + 4 + length > len(table.Bytes):
            raise IndexError("a string ends behind the file")
        yield bytes(table.Bytes[begin + 4 : begin + 4 + length])
