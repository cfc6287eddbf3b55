"""What the program `benchmark_model` prints, of all years, and the binary result it writes.

Source: tensorflow/lite/tools/benchmark (`benchmark_model.cc`, `proto/benchmark_result.proto`) at github.com/tensorflow.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tflite_tools.devices.adb import printable
from tflite_tools.devices.op_tables import PREFIX
from tflite_tools.errors import DeviceError

_COUNT = re.compile(r"^count=(\d+)((?: \w+=[-\d.e+]+)+)")
_PAIR = re.compile(r"(\w+)=([-\d.e+]+)")
_TIMINGS = re.compile(
    r"Inference timings in us: Init: ([\d.e+]+), First inference: ([\d.e+]+), "
    r"Warmup \(avg\): ([\d.e+]+), Inference \(avg\): ([\d.e+]+)"
)
_MEMORY = re.compile(r"[Mm]emory footprint.*\(MB\): init=([\d.e+-]+) overall=([\d.e+-]+)")
_APPLIED = re.compile(
    r"Explicitly applied (\S+) delegate, and the model graph will be (completely|partially) executed by the delegate"
)
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\)")
_REFUSED = re.compile(r"^([A-Z][A-Z0-9_]+): (.+)$")
_REFUSAL_HEADER = re.compile(r"Following operations are not supported by (\w+) delegate")


@dataclass(frozen=True)
class Delegation:
    """What a delegate took over.

    Attributes:
        applied: its name as the program prints it; "" if it said nothing.
        complete: the whole graph.
        nodes, total: how many of how many, where printed.
        refused: (operator, reason) of those it left.
    """

    applied: str = ""
    complete: bool = False
    nodes: int | None = None
    total: int | None = None
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class BenchmarkRun:
    """One run of the program; milliseconds and bytes, None where this build does not say.

    `low_ms` and `high_ms` are the 5th and 95th percentile where `has_percentiles`, else minimum and maximum.
    """

    num_runs: int
    min_ms: float
    avg_ms: float
    low_ms: float
    median_ms: float
    high_ms: float
    has_percentiles: bool
    init_ms: float | None = None
    first_ms: float | None = None
    memory_bytes: int | None = None
    delegation: Delegation = Delegation()


def read_run(text: str) -> BenchmarkRun:
    """From all the program printed.

    Raises:
        DeviceError: it reported a failure, or the lines with the times are missing.
    """
    lines = [PREFIX.sub("", line).strip() for line in text.splitlines()]
    counts = [match for line in lines if (match := _COUNT.match(line))]
    timings = next((match for line in reversed(lines) if (match := _TIMINGS.search(line))), None)
    if not counts or timings is None:
        # The last block is the measurement; the one before it is the warm-up.
        errors = [printable(line) for line in text.splitlines() if "ERROR" in line] or [printable(text[-300:])]
        raise DeviceError(f"benchmark_model did not measure: {' '.join(errors[:3]) or 'it printed nothing'}")
    values = {key: float(value) / 1000 for key, value in _PAIR.findall(counts[-1][2])}
    init_us, first_us, _, average_us = (float(value) for value in timings.groups())
    average = values.get("avg", average_us / 1000)
    once = values.get("curr", average)  # "count=1 curr=..." has nothing else
    least, most = values.get("min", once), values.get("max", once)
    memory = next((match for line in reversed(lines) if (match := _MEMORY.search(line))), None)
    return BenchmarkRun(
        num_runs=int(counts[-1][1]),
        min_ms=least,
        avg_ms=average,
        low_ms=values.get("p5", least),
        median_ms=values.get("median", average),
        high_ms=values.get("p95", most),
        has_percentiles="median" in values,
        init_ms=init_us / 1000,
        first_ms=first_us / 1000,
        memory_bytes=_megabytes(memory[2]) if memory else None,
        delegation=_delegation(lines),
    )


def _megabytes(text: str) -> int | None:
    value = float(text)
    return int(value * 2**20) if math.isfinite(value) and value > 0 else None


def _delegation(lines: list[str]) -> Delegation:
    applied = next((match for line in lines if (match := _APPLIED.search(line))), None)
    replaced = next((match for line in lines if (match := _REPLACED.search(line))), None)
    refused: list[tuple[str, str]] = []
    for number, line in enumerate(lines):
        if _REFUSAL_HEADER.search(line):
            for follower in lines[number + 1 :]:
                match = _REFUSED.match(follower)
                if not match:
                    break
                refused.append((match[1], printable(match[2])))
    return Delegation(
        applied=applied[1] if applied else replaced[3] if replaced else "",
        complete=bool(applied and applied[2] == "completely"),
        nodes=int(replaced[1]) if replaced else None,
        total=int(replaced[2]) if replaced else None,
        refused=tuple(dict.fromkeys(refused)),
    )


# `BenchmarkResult`, the message of --result_file_path; it is in no package, so its field numbers are here.
_FLOAT, _INT32, _INT64, _STRING = 2, 5, 3, 9
_LATENCY = "avg_ms min_ms max_ms stddev_ms median_ms p5_ms p95_ms init_ms first_inference_ms average_warm_up_ms"
_MESSAGES: dict[str, list[tuple[str, Any]]] = {
    "Latency": [(name, _FLOAT) for name in _LATENCY.split()],
    "Memory": [("init_footprint_kb", _INT64), ("overall_footprint_kb", _INT64), ("peak_mem_mb", _FLOAT)],
    "Misc": [("model_size_mb", _FLOAT), ("num_runs", _INT32), ("num_warmup_runs", _INT32), ("throughput", _FLOAT)],
    "Result": [("name", _STRING), ("latency", "Latency"), ("memory", "Memory"), ("misc", "Misc")],
}


@lru_cache
def _result_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="benchmark.proto", package="tflite_tools", syntax="proto2")
    for name, members in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (member, kind) in enumerate(members, 1):
            added = message.field.add(name=member, number=number, label=field.LABEL_OPTIONAL)
            added.type = field.TYPE_MESSAGE if isinstance(kind, str) else kind
            if isinstance(kind, str):
                added.type_name = f".tflite_tools.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tflite_tools.Result"))


def with_result(run: BenchmarkRun, data: bytes) -> BenchmarkRun:
    """Adds the digits and percentiles that the printed lines lack.

    Raises:
        DeviceError: the bytes are no such result.
    """
    from google.protobuf.message import DecodeError

    try:
        result = _result_class().FromString(data)
    except DecodeError as error:
        raise DeviceError(f"result.pb ({len(data)} bytes) is damaged: {printable(str(error))}") from error
    latency, memory = result.latency, result.memory
    if not latency.min_ms > 0:
        return run
    changes: dict[str, Any] = {"min_ms": latency.min_ms, "avg_ms": latency.avg_ms}
    if latency.median_ms > 0:
        changes |= {"median_ms": latency.median_ms, "low_ms": latency.p5_ms, "high_ms": latency.p95_ms}
        changes["has_percentiles"] = True
    if memory.peak_mem_mb > 0:  # only where it was asked for; else what the run added to the process
        changes["memory_bytes"] = int(memory.peak_mem_mb * 2**20)
    elif memory.overall_footprint_kb > 0:
        changes["memory_bytes"] = memory.overall_footprint_kb * 1024
    return replace(run, **changes)
