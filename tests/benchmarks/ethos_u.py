"""Prunes shared networks to a share of the cycles of an Arm Ethos-U, as Arm's compiler Vela estimates them.

    python -m tests.benchmarks.ethos_u --output=ethos_u.jsonl
    python -m tests.benchmarks.ethos_u --models=mlperf_resnet8_cifar10 --accelerator=ethos-u85-128 --data=1000

A table of cycles for every multiple of `--multiple` channels is fitted by `tflite_tools.latency` and goes into the
exact solver as a hard limit. What counts is what Vela says of the pruned int8 file: as long as that exceeds the limit
(the sum of the operators is not quite the whole), the limit for the sum is lowered by as much and the program solved
again. Vela may use `--sram` of the dense network's SRAM; where that does not suffice, the budget `peak_bytes` is
lowered in the same way. Networks that are in the output already are not done again.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_qcqp
import tflite_tools
from keras_qcqp import LatencyLimit
from tests.benchmarks.shared_data import DATA, SAMPLES, Samples, imagenet, imagenet_images, load_tiles, model_path
from tflite_tools.devices import EthosUDevice
from tflite_tools.devices.ethos_u import VelaEstimate
from tflite_tools.latency.fitting import FitOptions, fit_latency
from tflite_tools.latency.geometry import fingerprint
from tflite_tools.latency.model import LatencyModel


def _without_background(count: int) -> Samples:
    """For networks of 1000 classes, where the labels count another one as 0."""
    samples = imagenet(count)
    assert samples.labels is not None
    return replace(samples, labels=samples.labels - 1)


_NETWORKS = {**SAMPLES, "mobilenetv1_025_224_imagenet": _without_background}
_MODELS = flags.DEFINE_list("models", ["mlperf_resnet8_cifar10", "mobilenetv1_025_224_imagenet"], "Shared networks.")
_ACCELERATOR = flags.DEFINE_string("accelerator", "ethos-u55-128", "By Vela's name.")
_FRACTION = flags.DEFINE_float("fraction", 0.5, "Of the dense network's cycles.")
_SRAM = flags.DEFINE_float("sram", 0.9, "Of the dense network's SRAM.")
_MULTIPLE = flags.DEFINE_integer("multiple", 8, "Widths that are measured and may be chosen.")
_DATA = flags.DEFINE_integer("data", 0, "Images to measure importance on; 0: magnitudes of weights alone.")
_COUNT = flags.DEFINE_integer("count", 1000, "Images for accuracy (500 at most for ImageNet).")
_SECONDS = flags.DEFINE_float("time_limit_s", 20.0, "For each search.")
_ROUNDS = flags.DEFINE_integer("rounds", 8, "How often the limits may be lowered.")
_OUTPUT = flags.DEFINE_string("output", "ethos_u.jsonl", "Rows, appended; latency files lie beside it.")


def main(_: list[str]) -> None:
    """One row for each network, then the table."""
    output = Path(_OUTPUT.value)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    for name in _MODELS.value:
        key = {"model": name, "accelerator": _ACCELERATOR.value, "fraction": _FRACTION.value, "data": _DATA.value}
        if not any(key.items() <= row.items() for row in rows):
            rows.append(key | measured(name, output.parent))
            with output.open("a") as stream:
                print(json.dumps(rows[-1]), file=stream)
    print(table(rows))


@dataclass(frozen=True)
class Limits:
    """What Vela may say of the pruned network at most."""

    cycles: int
    sram_bytes: int

    def hold(self, found: VelaEstimate) -> bool:
        return found.cycles <= self.cycles and found.sram_bytes <= self.sram_bytes


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Fits, prunes, verifies."""
    model, samples = keras.models.load_model(model_path(name)), _NETWORKS[name](_COUNT.value)
    dense = tflite_tools.convert(model, "int8", samples.calibration)
    before = estimate(EthosUDevice(_ACCELERATOR.value), dense)
    limits = Limits(round(before.cycles * _FRACTION.value), round(before.sram_bytes * _SRAM.value))
    device = EthosUDevice(_ACCELERATOR.value, arena_cache_bytes=limits.sram_bytes)
    path = folder / f"{name}.{_ACCELERATOR.value}.json"
    fitted = fitted_to(path, dense, device)
    began = time.perf_counter()
    examples = training_images(name, samples, _DATA.value)
    result, pruned, after, tries = pruned_below(
        model, samples, examples, device, path, limits, before.counters["clock_hz"] / 1e3
    )
    solution = result.solution
    return {
        "cycles_before": before.cycles,
        "cycles_limit": limits.cycles,
        "cycles": after.cycles,
        "sram_before": before.sram_bytes,
        "sram_limit": limits.sram_bytes,
        "sram": after.sram_bytes,
        "flash_before": before.flash_bytes,
        "flash": after.flash_bytes,
        "first_error_percent": 100 * (tries[0]["cycles"] / tries[0]["predicted"] - 1),
        "tries": tries,
        "gap_percent": 100 * solution.gap,
        "macs_percent": 100 * keras_qcqp.measure(result.model)["macs"] / keras_qcqp.measure(model)["macs"],
        "accuracy_before": accuracy(dense, samples),
        "accuracy": accuracy(pruned, samples),
        "fit_s": fitted.seconds,
        "num_images": len(samples.inputs),
        "prune_s": time.perf_counter() - began,
    }


def fitted_to(path: Path, dense: bytes, device: EthosUDevice) -> LatencyModel:
    """The latency file, made if it is missing or of another network, device or set of widths."""
    options = FitOptions(multiple=_MULTIPLE.value)
    if path.exists():
        stored = LatencyModel.load(path)
        if (stored.fingerprint, stored.device, stored.settings) == (fingerprint(dense), device.name, asdict(options)):
            return stored
    fitted = fit_latency(dense, device, options)
    fitted.save(path)
    return fitted


def training_images(name: str, samples: Samples, count: int) -> np.ndarray | None:
    """As the network wants them, none of those that accuracy is measured on."""
    if not count:
        return None
    if name == "mlperf_resnet8_cifar10":
        return load_tiles(DATA / "cifar10/train_1.npz")[0][:count].astype(np.float32)
    return imagenet_images(False, count)[0] if "imagenet" in name else samples.calibration[:count]


def pruned_below(
    model: keras.Model,
    samples: Samples,
    examples: np.ndarray | None,
    device: EthosUDevice,
    path: Path,
    limits: Limits,
    per_ms: float,
) -> tuple[Any, bytes, VelaEstimate, list[dict[str, float]]]:
    """Solves until Vela's cycles and SRAM of the int8 file are within both limits."""
    scale, peak, tries = 1.0, 1.0, []
    for _ in range(_ROUNDS.value):
        budget: dict[str, Any] = {"latency_ms": LatencyLimit(str(path), ms=limits.cycles / per_ms, scale=scale)}
        budget |= {"peak_bytes": peak} if peak < 1 else {}
        result = keras_qcqp.prune(
            model,
            budget,
            data=examples,
            widths={"width_multiple": _MULTIPLE.value},
            recipe="int8",
            time_limit_s=_SECONDS.value,
        )
        data = tflite_tools.convert(result.model, "int8", samples.calibration)
        found = estimate(device, data)
        (used,) = (value for key, value in result.solution.usage.items() if key.startswith("latency_ns"))
        predicted = used * per_ms / 1e6
        tries.append({"predicted": predicted, "cycles": found.cycles, "sram": found.sram_bytes, "peak": peak})
        print(f"{path.stem}: {tries[-1]} of {limits}", flush=True)
        if limits.hold(found):
            return result, data, found, tries
        if found.cycles > limits.cycles:
            scale = max(scale * 1.005, found.cycles / predicted * 1.002)
        if found.sram_bytes > limits.sram_bytes:
            peak = peak * limits.sram_bytes / found.sram_bytes * 0.99
    raise SystemExit(f"{path.stem}: not within {limits} after {_ROUNDS.value} rounds: {tries}")


def estimate(device: EthosUDevice, data: bytes) -> VelaEstimate:
    """Of a file that must not leave anything to the CPU."""
    (found,) = device.estimate({"net": data}).values()
    assert not found.cpu_ops, found.cpu_ops
    return found


def accuracy(data: bytes, samples: Samples) -> float:
    """Top-1 in per cent of an int8 file in LiteRT."""
    (outputs,) = tflite_tools.predict(data, samples.inputs[: _COUNT.value]).values()
    return float(100 * np.mean(outputs.argmax(-1) == samples.labels[: len(outputs)]))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| network | cycles | limit | pruned | first try off by | tries | SRAM KiB | limit | pruned | top-1 % |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        sram = " | ".join(f"{row[key] / 1024:.1f}" for key in ("sram_before", "sram_limit", "sram"))
        lines.append(
            f"| {row['model']} | {row['cycles_before']:,} | {row['cycles_limit']:,} | {row['cycles']:,} | "
            f"{row['first_error_percent']:+.1f} % | {len(row['tries'])} | {sram} | "
            f"{row['accuracy_before']:.1f} -> {row['accuracy']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
