"""Which operators a delegate or processor leaves aside, each asked of whoever knows best."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tflite_tools.devices import DEVICES, TimingOptions
from tflite_tools.devices.coral import unsupported_ops
from tflite_tools.devices.ethos_u import EthosUDevice
from tflite_tools.devices.host_ops import profiled_ops
from tflite_tools.devices.workers import run_worker
from tflite_tools.errors import DeviceError, did_you_mean
from tflite_tools.flatbuffer import read_facts

_GPU_SECONDS = 300.0


@dataclass(frozen=True)
class LeftOp:
    """An operator that is not taken; `index` is its place in the file, None where only its kind is known."""

    index: int | None
    kind: str
    reason: str


@dataclass(frozen=True)
class Support:
    """What a target says of a model.

    Attributes:
        known: whether anybody could be asked; if not, `source` says what is missing.
        source: who was asked.
        left: operators for the CPU (of `xnnpack`: for the plain kernels).
    """

    target: str
    known: bool
    source: str
    left: tuple[LeftOp, ...] = ()

    def __str__(self) -> str:
        if not self.known:
            return f"{self.target}: unknown; {self.source}"
        if not self.left:
            return f"{self.target}: takes all operators ({self.source})"
        groups = Counter((op.kind, op.reason) for op in self.left)
        rows = [f"  {kind} x{count}: {reason}" for (kind, reason), count in groups.items()]
        return "\n".join([f"{self.target}: leaves {len(self.left)} operators ({self.source})", *rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "left": [asdict(op) for op in self.left]}


def ask_support(data: bytes, target: str) -> Support:
    """Asks one target: a key of `TARGETS`, for Ethos-U with an accelerator such as "ethos_u:ethos-u55-64".

    Raises:
        DeviceError: there is no such target.
    """
    kind = target.partition(":")[0]
    if kind not in TARGETS:
        raise DeviceError(f"There is no target '{target}'. {did_you_mean(kind, TARGETS)}")
    if kind == "ethos_u":
        DEVICES[kind](target.partition(":")[2])  # a wrong name is an error, a missing compiler is an answer
    try:
        return TARGETS[kind](data, target)
    except DeviceError as error:
        return Support(target, False, str(error))


def _xnnpack(data: bytes, target: str) -> Support:
    once = TimingOptions(rounds=1, repeats=1, warmup=1)
    nodes = [op.node for op in profiled_ops(data, once, "xnnpack")]
    left = {node: "runs in a plain kernel" for node in nodes if node is not None}
    return Support(target, True, "LiteRT on this computer", _left(data, left))


def _coral(data: bytes, target: str) -> Support:
    return Support(target, True, "Coral's documented rules, not the compiler", _left(data, unsupported_ops(data)))


def _ethos_u(data: bytes, target: str) -> Support:
    device = EthosUDevice.parse(target.partition(":")[2])
    (estimate,) = device.estimate({"model": data}).values()
    left = tuple(LeftOp(None, kind, "left to the CPU by Vela") for kind in estimate.cpu_ops)
    return Support(target, True, f"Vela for {device.accelerator}", left)


def _gpu(data: bytes, target: str) -> Support:
    with tempfile.TemporaryDirectory(prefix="tflite_tools_") as place:
        Path(place, "model.tflite").write_bytes(data)
        outcome = run_worker("tflite_tools.gpu_worker", {"path": str(Path(place, "model.tflite"))}, _GPU_SECONDS)
    if outcome.fault:
        raise DeviceError(f"TensorFlow's analyzer {outcome.fault}: {outcome.last_words}")
    (answer,) = outcome.answers
    if not answer["known"]:
        raise DeviceError("TensorFlow's analyzer says nothing of the GPU delegate in this version.")
    left = {int(number): answer["reasons"].get(number, "not supported") for number in answer["nodes"]}
    return Support(target, True, f"TensorFlow {answer['version']}'s analyzer, not a phone", _left(data, left))


def _left(data: bytes, reasons: Mapping[int, str]) -> tuple[LeftOp, ...]:
    operators = read_facts(data).operators
    return tuple(LeftOp(number, operators[number].name, reason) for number, reason in sorted(reasons.items()))


TARGETS: Mapping[str, Callable[[bytes, str], Support]] = {
    "xnnpack": _xnnpack,
    "gpu": _gpu,
    "coral": _coral,
    "ethos_u": _ethos_u,
}
