"""What Google's `edgetpu_compiler` prints, versions 2 to 16.

Source: https://coral.ai/docs/edgetpu/compiler and logs in public issues; never run by us.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tflite_tools.errors import DeviceError

MAPPED = "Mapped to Edge TPU"
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_VERSION = re.compile(r"Edge TPU Compiler version (\S+)")
_MODEL = re.compile(r"^Input(?: model)?: (.+)$")
_SIZE = re.compile(r"^(.+?): ([\d.]+)(B|KiB|MiB|GiB)$")
_NUMBER = re.compile(r"^(Number of Edge TPU subgraphs|Total number of operations): (\d+)$")
_SPLIT = re.compile(r"^Number of operations that will run on (Edge TPU|CPU): (\d+)$")
_ROW = re.compile(r"^([A-Za-z0-9_-]+)\s+(\d+)\s+(\S.*)$")
_SIZES = {
    "Input size": "input_bytes",
    "Output size": "output_bytes",
    "On-chip memory used for caching model parameters": "cached_bytes",
    "On-chip memory remaining for caching model parameters": "remaining_bytes",
    "On-chip memory available for caching model parameters": "remaining_bytes",  # version 2 says it before "used"
    "Off-chip memory used for streaming uncached model parameters": "streamed_bytes",
}
_NUMBERS = {"Number of Edge TPU subgraphs": "subgraphs", "Total number of operations": "operations"}
# What a failing compiler prints -> what it means; the first that matches counts.
_FAILURES = (
    (
        re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'"),
        "operator {0} has version {1}, newer than the compiler knows; grouped convolutions are such",
    ),
    (re.compile(r"Model not quantized"), "the model is not quantized; convert it with recipe int8"),
    (re.compile(r"large activation tensors"), "its activations do not fit on the chip; use smaller images or widths"),
    (
        re.compile(r"Internal compiler error"),
        "the compiler failed inside; try edgetpu_compiler -d to find the operator",
    ),
    (re.compile(r"Invalid model: (.+)"), "it is no valid model"),
    (re.compile(r"[Tt]imed? ?out"), "the compiler ran out of time"),
)


@dataclass(frozen=True)
class CompiledModel:
    """One model of a log. Sizes are rounded by the compiler to two decimals of their unit.

    Attributes:
        cached_bytes: parameters kept on the chip; `streamed_bytes` are fetched anew for every inference, which is slow.
        remaining_bytes: what is free on the chip for more.
    """

    name: str
    input_bytes: int = 0
    output_bytes: int = 0
    cached_bytes: int = 0
    remaining_bytes: int = 0
    streamed_bytes: int = 0
    subgraphs: int = 0
    operations: int = 0


@dataclass(frozen=True)
class CompilerLog:
    """A whole run.

    Attributes:
        ops: (operator, status) -> how many, over all models; empty without `-s`.
        on_tpu, on_cpu: over all models.
    """

    version: str
    models: tuple[CompiledModel, ...]
    on_tpu: int
    on_cpu: int
    ops: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def unmapped(self) -> dict[tuple[str, str], int]:
        """Operators that stay on the CPU, with the compiler's reason."""
        return {key: count for key, count in self.ops.items() if key[1] != MAPPED}


def read_log(text: str) -> CompilerLog:
    """Reads what the compiler printed, or one of its `.log` files.

    Raises:
        DeviceError: it failed, with what that means; or this is no such text.
    """
    lines = [line.strip() for line in text.splitlines()]
    version = _VERSION.search(text)
    models: list[dict[str, str | int]] = []
    ops: dict[tuple[str, str], int] = {}
    split: dict[str, int] = {}
    for line in lines:
        if match := _MODEL.match(line):
            models.append({"name": match[1]})
        elif models and (match := _SIZE.match(line)) and match[1] in _SIZES:
            models[-1][_SIZES[match[1]]] = round(float(match[2]) * _UNITS[match[3]])
        elif models and (match := _NUMBER.match(line)):
            models[-1][_NUMBERS[match[1]]] = int(match[2])
        elif match := _SPLIT.match(line):
            split[match[1]] = split.get(match[1], 0) + int(match[2])
        elif match := _ROW.match(line):
            key = match[1], match[3]
            ops[key] = ops.get(key, 0) + int(match[2])
    if not version:
        raise DeviceError("This is no output of edgetpu_compiler: the line with its version is missing.")
    if not models:
        raise DeviceError(f"edgetpu_compiler {version[1]} failed: {_meaning(text)}.")
    compiled = tuple(CompiledModel(**model) for model in models)  # type: ignore[arg-type]
    total = sum(model.operations for model in compiled) or sum(ops.values())
    on_cpu = split.get("CPU", sum(count for key, count in ops.items() if key[1] != MAPPED))
    return CompilerLog(version[1], compiled, split.get("Edge TPU", total - on_cpu), on_cpu, ops)


def _meaning(text: str) -> str:
    for pattern, meaning in _FAILURES:
        if match := pattern.search(text):
            return meaning.format(*match.groups())
    last = [line.strip() for line in text.splitlines() if line.strip()][-1:]
    return last[0] if last else "it printed nothing"
