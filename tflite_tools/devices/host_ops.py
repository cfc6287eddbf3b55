"""Times of single operators on the host, and the memory a model takes there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tflite_tools.devices.base import OpTiming, Timing, TimingOptions
from tflite_tools.devices.workers import Outcome, run_worker
from tflite_tools.errors import DeviceError
from tflite_tools.flatbuffer import op_outputs
from tflite_tools.latency.flat_graph import read_graph, write_graph

PROFILER = "profiler of the LiteRT C library"
SLICES = "single operators cut out of the file and timed alone"
_PROFILER_NOTE = "times of operators are from runs under the profiler, which makes each a little slower."
_SLICES_NOTE = (
    "the profiler of LiteRT is not available ({}); operators were timed alone, which costs them a few percent."
)
_SECONDS = 300.0
Rows = tuple[OpTiming, ...]
Profiler = Callable[[Mapping[str, bytes], TimingOptions], Mapping[str, Timing]]


def measure_ops(
    name: str, data: bytes, options: TimingOptions, delegate: str, profile: Profiler
) -> tuple[Rows, str, tuple[str, ...]]:
    """Rows, where they come from, and what to know about them.

    Args:
        profile: times whole models; used for single operators where the profiler is not available.

    Raises:
        DeviceError: neither way works for this model.
    """
    try:
        return profiled_ops(data, options, delegate), PROFILER, (_PROFILER_NOTE,)
    except DeviceError as error:
        return _sliced(name, data, options, profile), SLICES, (_SLICES_NOTE.format(error),)


def profiled_ops(data: bytes, options: TimingOptions, delegate: str) -> Rows:
    """Rows from the profiler; of those with a node, the operator ran in a plain kernel.

    Raises:
        DeviceError: the profiler is not available, or ended badly.
    """
    outcome = _ask("ops", data, options, delegate)
    answer = outcome.answers[0] if outcome.answers and not outcome.fault else {}
    if "rows" not in answer:
        raise DeviceError(answer.get("unavailable") or f"it {outcome.fault}")
    return _profiled(data, answer["rows"])


def measure_memory(data: bytes, options: TimingOptions, delegate: str) -> tuple[int | None, tuple[str, ...]]:
    """What a model adds to the peak of a fresh process: file, packed weights, activations."""
    outcome = _ask("memory", data, options, delegate)
    answer = outcome.answers[0] if outcome.answers and not outcome.fault else {}
    if "bytes" in answer:
        return answer["bytes"], ()
    return None, (f"the peak of memory is unknown: {answer.get('unavailable') or outcome.fault}.",)


def _ask(task: str, data: bytes, options: TimingOptions, delegate: str) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="tflite_tools_") as place:
        path = Path(place, "model.tflite")
        path.write_bytes(data)
        request = {"task": task, "path": str(path), "threads": options.num_threads, "delegate": delegate}
        numbers = {key: getattr(options, key) for key in ("rounds", "repeats", "warmup", "seed")}
        return run_worker("tflite_tools.devices.host_worker", {**request, **numbers}, _SECONDS)


def _profiled(data: bytes, rows: list[Any]) -> Rows:
    outputs = op_outputs(data)
    found = []
    for kernel, index, kind, us in rows:
        is_node = kernel == "builtin" and index < len(outputs)
        node = index if is_node else None
        found.append(OpTiming(kind, outputs[index] if is_node else f"{kernel}:{index}", us / 1000, node=node))
    return tuple(found)


def _sliced(name: str, data: bytes, options: TimingOptions, profile: Profiler) -> Rows:
    graph = read_graph(data)
    slices = {str(number): write_graph(graph.single(number), {}) for number in range(len(graph.ops))}
    try:
        timings = profile(slices, replace(options, per_op=False, memory=False))
    except DeviceError as error:
        raise DeviceError(f"The operators of model '{name}' cannot be timed one by one: {error}") from error
    return tuple(
        OpTiming(op.kind, output, timings[str(number)].latency_ms, node=number)
        for number, (op, output) in enumerate(zip(graph.ops, op_outputs(data), strict=True))
    )
