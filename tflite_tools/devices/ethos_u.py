"""Arm Ethos-U processors, estimated by Arm's own compiler Vela: no hardware needed, the same numbers every time.

`pip install 'keras-qcqp[ethos_u]'`. The cycles are those of the compiler's performance model, not of silicon.
Source: the documentation of ethos-u-vela, "Vela Performance Estimation Summary".
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from tflite_tools.devices.base import OpTiming, Timing, TimingOptions
from tflite_tools.devices.workers import run_worker
from tflite_tools.errors import DeviceError, did_you_mean
from tflite_tools.flatbuffer import TfliteFacts

ACCELERATORS: Mapping[str, tuple[str, ...]] = {  # family -> multiply-accumulates per cycle
    "ethos-u55": ("32", "64", "128", "256"),
    "ethos-u65": ("256", "512"),
    "ethos-u85": ("128", "256", "512", "1024", "2048"),
}
# What Vela takes by itself when nothing is given; named here so that a profile says it.
_DEFAULTS = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "ethos-u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
SYSTEM_CONFIGS: Mapping[str, tuple[str, ...]] = {
    "ethos-u55": ("Ethos_U55_Deep_Embedded", "Ethos_U55_High_End_Embedded"),
    "ethos-u65": ("Ethos_U65_Embedded", "Ethos_U65_Mid_End", "Ethos_U65_High_End", "Ethos_U65_Client_Server"),
    "ethos-u85": tuple(f"Ethos_U85_SYS_{x}" for x in "Flash_Low Flash_High DRAM_Low DRAM_Mid DRAM_High".split()),
}
MEMORY_MODES = ("Sram_Only", "Shared_Sram", "Dedicated_Sram", *(f"Dedicated_Sram_{n}KB" for n in (256, 384, 512)))

_OPTIONS = ("system_config", "memory_mode", "arena_cache_bytes")

_KIB = ("sram", "dram", "on_chip_flash", "off_chip_flash")
_COUNTS = ("nn_macs", "total_original_weights", "total_npu_encoded_weights")
_CYCLES = ("total", "npu", "sram_access", "dram_access", "on_chip_flash_access", "off_chip_flash_access")
_ESTIMATE_NOTE = "an estimate of Arm's compiler (Vela), not a measurement; the same file always gives the same number."
_WORKER = "tflite_tools.devices.vela_worker"
_SECONDS_PER_MODEL, _SECONDS_TO_START = 120, 60  # a large network takes 12 s


@dataclass(frozen=True)
class VelaEstimate:
    """What Vela says of one model.

    Attributes:
        cycles: of one inference; `ms` the same at the clock of the system configuration.
        sram_bytes: on-chip memory used; `flash_bytes` what lies in flash, `dram_bytes` in DRAM.
        ops: a row for each operation of the processor, in order; some operators become several.
        cpu_ops: operators Vela leaves to the CPU, of which it estimates nothing.
        counters: all figures of the summary that profiles record.
    """

    cycles: int
    ms: float
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    ops: tuple[OpTiming, ...]
    cpu_ops: tuple[str, ...]
    counters: Mapping[str, float]


class EthosUDevice:
    """One accelerator with one system configuration and memory mode, by Vela's names.

    Args:
        accelerator: such as "ethos-u55-128": family and multiply-accumulates per cycle.
        system_config, memory_mode: sections of Vela's `Arm/vela.ini`; both, or none for Vela's defaults.
        arena_cache_bytes: SRAM that Vela may use; it buffers as much there as it can, and cannot always stay within:
            look at `sram_bytes`. None is the size of the memory mode.

    Raises:
        DeviceError: an unknown name, a configuration of another family, only one of the two, or no size.
    """

    deterministic = True  # once is enough

    def __init__(
        self,
        accelerator: str = "ethos-u55-128",
        system_config: str | None = None,
        memory_mode: str | None = None,
        arena_cache_bytes: int | None = None,
    ) -> None:
        family = accelerator.rpartition("-")[0]
        known = [f"{name}-{macs}" for name, sizes in ACCELERATORS.items() for macs in sizes]
        if accelerator not in known:
            raise DeviceError(f"There is no accelerator '{accelerator}'. {did_you_mean(accelerator, known)}")
        if (system_config is None) != (memory_mode is None):
            raise DeviceError(
                "Vela wants both or none of system_config and memory_mode; "
                f"got system_config={system_config}, memory_mode={memory_mode}."
            )
        system, mode = system_config or _DEFAULTS[family][0], memory_mode or _DEFAULTS[family][1]
        for what, value, choices in (
            (f"system configuration for {family}", system, SYSTEM_CONFIGS[family]),
            ("memory mode", mode, MEMORY_MODES),
        ):
            if value not in choices:
                raise DeviceError(f"There is no {what} '{value}'. {did_you_mean(value, choices)}")
        if arena_cache_bytes is not None and arena_cache_bytes < 1:
            raise DeviceError(f"arena_cache_bytes is {arena_cache_bytes}; a size above 0 is expected.")
        self.arena_cache_bytes = arena_cache_bytes
        self.accelerator, self.system_config, self.memory_mode = accelerator, system, mode
        self._is_default = system_config is None

    @classmethod
    def parse(cls, text: str) -> EthosUDevice:
        """From "ethos-u55-128" or "ethos-u55-128,system_config=...,memory_mode=...,arena_cache_bytes=...".

        "" is the default.

        Raises:
            DeviceError: as the constructor, or an unknown key.
        """
        accelerator, *pairs = text.split(",")
        options: dict[str, str] = dict(pair.partition("=")[::2] for pair in pairs)
        for key in options:
            if key not in _OPTIONS:
                raise DeviceError(f"ethos_u has no option '{key}'. Known: {', '.join(_OPTIONS)}.")
        size = options.pop("arena_cache_bytes", None)
        if size is not None and not size.isdecimal():
            raise DeviceError(f"ethos_u: arena_cache_bytes={size} is no number of bytes.")
        cache = None if size is None else int(size)
        chosen = accelerator or "ethos-u55-128"
        return cls(chosen, options.get("system_config"), options.get("memory_mode"), cache)

    @property
    def name(self) -> str:
        """Can be given to `get_device`."""
        extra = "" if self._is_default else f",system_config={self.system_config},memory_mode={self.memory_mode}"
        extra += "" if self.arena_cache_bytes is None else f",arena_cache_bytes={self.arena_cache_bytes}"
        return f"ethos_u:{self.accelerator}{extra}"

    def profile(self, models: Mapping[str, bytes], options: TimingOptions) -> dict[str, Timing]:
        """Estimates all models in one process; rounds, repeats and threads have no meaning here.

        Raises:
            DeviceError: Vela is missing or fails, or leaves operators of a model to the CPU.
        """
        delegate = options.delegate_among(("npu",), self.name)
        estimates = self.estimate(models)
        for name, estimate in estimates.items():
            if estimate.cpu_ops:
                raise DeviceError(_on_cpu(name, estimate))
        return {
            name: Timing(
                *(estimate.ms,) * 4,
                num_runs=1,
                peak_memory_bytes=estimate.sram_bytes,
                delegate=delegate,
                ops=estimate.ops if options.per_op else (),
                ops_source="Vela's table per layer" if options.per_op else "",
                counters=estimate.counters,
            )
            for name, estimate in estimates.items()
        }

    def estimate(self, models: Mapping[str, bytes]) -> dict[str, VelaEstimate]:
        """Estimates of complete or single-operator models, a few milliseconds each, in the order given.

        Models with operators for the CPU are answered as well: look at `cpu_ops`, the rest is then a part only.

        Raises:
            DeviceError: Vela is not installed, crashes, takes too long or refuses a model.
        """
        if util.find_spec("ethosu") is None:
            raise DeviceError(
                "Ethos-U estimates need Arm's compiler Vela. Install it: pip install 'keras-qcqp[ethos_u]' "
                "(or pip install ethos-u-vela)."
            )
        if not models:
            return {}
        answers = _compile(list(models.items()), self._arguments())
        return {name: _estimate(answer) for name, answer in zip(models, answers, strict=True)}

    def _arguments(self) -> list[str]:
        cache = [] if self.arena_cache_bytes is None else [f"--arena-cache-size={self.arena_cache_bytes}"]
        return [
            *cache,
            f"--accelerator-config={self.accelerator}",
            "--config=Arm/vela.ini",
            f"--system-config={self.system_config}",
            f"--memory-mode={self.memory_mode}",
        ]

    def notes(self, facts: TfliteFacts) -> tuple[str, ...]:
        """Whose numbers these are."""
        return (_ESTIMATE_NOTE,)

    def environment(self) -> dict[str, str]:
        """Accelerator, configuration and the version of Vela."""
        return {
            "cpu": self.accelerator,
            "system_config": self.system_config,
            "memory_mode": self.memory_mode,
            "arena_cache_bytes": str(self.arena_cache_bytes or "of the memory mode"),
            "ethos_u_vela": metadata.version("ethos-u-vela"),
        }


def _compile(models: list[tuple[str, bytes]], arguments: list[str]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="vela_") as place:
        files = [f"m{number}.tflite" for number in range(len(models))]
        for file, (_, data) in zip(files, models, strict=True):
            Path(place, file).write_bytes(data)
        request = {"folder": place, "names": files, "arguments": arguments}
        outcome = run_worker(_WORKER, request, _SECONDS_TO_START + _SECONDS_PER_MODEL * len(models))
    answers = list(outcome.answers)
    for (name, _), answer in zip(models, answers, strict=False):
        if "error" in answer:
            raise DeviceError(f"Vela refuses model '{name}': {answer['error']}")
    if outcome.fault:
        culprit = models[min(len(answers), len(models) - 1)][0]
        words = outcome.last_words or "none"
        raise DeviceError(f"Vela {outcome.fault} at model '{culprit}'. Its last words: {words}")
    return answers


def _estimate(answer: Mapping[str, Any]) -> VelaEstimate:
    summary, rows = answer["summary"], answer["rows"]
    per_ms = float(summary["core_clock"]) / 1000
    cycles = int(float(summary["cycles_total"]))
    memory = {f"{kind}_bytes": round(float(summary[f"{kind}_memory_used"]) * 1024) for kind in _KIB}
    counters: dict[str, float] = {f"{kind}_cycles": int(float(summary[f"cycles_{kind}"])) for kind in _CYCLES}
    counters |= memory | {key: int(float(summary[key])) for key in _COUNTS} | {"clock_hz": float(summary["core_clock"])}
    ops = tuple(
        OpTiming(
            kind=row["NNG Operator"],
            name=row["Name"].strip(),
            ms=float(row["Op Cycles"]) / per_ms,
            cycles=int(float(row["Op Cycles"])),
        )
        for row in rows
    )
    return VelaEstimate(
        cycles=cycles,
        ms=cycles / per_ms,
        sram_bytes=memory["sram_bytes"],
        dram_bytes=memory["dram_bytes"],
        flash_bytes=memory["on_chip_flash_bytes"] + memory["off_chip_flash_bytes"],
        ops=ops,
        cpu_ops=tuple(row["Original Operator"] for row in rows if row["Target"].strip() != "NPU"),
        counters=counters,
    )


def _on_cpu(name: str, estimate: VelaEstimate) -> str:
    counts = {kind: estimate.cpu_ops.count(kind) for kind in dict.fromkeys(estimate.cpu_ops)}
    listed = ", ".join(f"{kind} x{count}" for kind, count in counts.items())
    everything = len(estimate.cpu_ops) == len(estimate.ops)
    return (
        f"Model '{name}' leaves {'all' if everything else 'these'} operators to the CPU ({listed}), and Vela "
        f"estimates nothing for a CPU. Ethos-U computes int8 or int16 only: convert with recipe int8"
        f"{'' if everything else ', and replace those operators'}."
    )
