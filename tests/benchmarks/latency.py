"""Latency as a budget, measured on this computer: how well it is predicted, and what it is worth.

    python -m tests.benchmarks.latency --output=latency.jsonl
    python -m tests.benchmarks.latency --output=latency.jsonl --rows=fit,speed --models=resnet20_cifar10

One line of JSON for each row; rows that are in the file already are not made again. Latency files are kept beside it.

fit: error of whole networks of random widths, for the form that was chosen and for each one alone. accuracy: a latency
budget of half against the largest MAC budget that is predicted to be as fast; one-shot, same importance (fisher), least
squares, no training. speed: measured speed-up at half of the MACs, with and without width_multiple="auto". verify:
random limits with verify=True, measured once more afterwards.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_qcqp
import tflite_tools
from keras_qcqp import Budget, LatencyLimit
from keras_qcqp.coupling import couple
from keras_qcqp.graph import read
from keras_qcqp.importance import criterion
from keras_qcqp.limits.meter import Meter
from keras_qcqp.verifying import find_measure
from tests.benchmarks.shared_data import DATA as SHARED
from tests.benchmarks.shared_data import SAMPLES, cifar10, load_tiles, model_path

FITTED = ("resnet20_cifar10", "resnet56_cifar10", "mlperf_kws_dscnn", "mobilenetv1_025_224_imagenet")
FITTED += ("mobilenetv2_100_224_imagenet",)
WEIGHED = ("resnet20_cifar10", "mlperf_kws_dscnn", "mlperf_resnet8_cifar10")
SPED_UP = ("resnet56_cifar10", "mobilenetv2_100_224_imagenet")
VERIFIED = ("mlperf_resnet8_cifar10", "mlperf_kws_dscnn")

_OUTPUT = flags.DEFINE_string("output", "latency.jsonl", "Where rows are added, one line of JSON each.")
_ROWS = flags.DEFINE_list("rows", ["fit", "accuracy", "speed", "verify"], "Kinds of rows.")
_MODELS = flags.DEFINE_list("models", None, "Only these networks.")
_SECONDS = flags.DEFINE_float("seconds", 30.0, "For each fit.")
_HELD_OUT = flags.DEFINE_integer("held_out", 24, "Whole networks that judge a fit.")
_LIMITS = flags.DEFINE_integer("limits", 20, "Random limits to verify.")
_TEST = flags.DEFINE_integer("test", 5000, "Test images.")

Row = dict[str, Any]


@functools.cache
def network(name: str) -> keras.Model:
    """A shared network."""
    return keras.models.load_model(model_path(name), compile=False)


def calibration(name: str) -> np.ndarray:
    """Inputs to quantize with."""
    known = name if name in SAMPLES else "mobilenetv2_100_224_imagenet"
    return SAMPLES[known](1).calibration


def latency_file(name: str, recipe: str) -> Path:
    """The fitted file, made once."""
    path = Path(f"{_OUTPUT.value}.{name}.{recipe}.json")
    if not path.exists():
        data = tflite_tools.convert(network(name), recipe, calibration(name) if recipe == "int8" else None)
        options = tflite_tools.FitOptions(seconds=_SECONDS.value, num_held_out=_HELD_OUT.value)
        tflite_tools.fit_latency(data, "host", options).save(path)
    return path


def measured(models: list[keras.Model], path: Path) -> list[float]:
    """Milliseconds, all in one session."""
    measure = find_measure(True)
    assert measure is not None
    return list(measure(models, str(path)))


def predicted(model: keras.Model, path: Path) -> int:
    """Nanoseconds."""
    limit = LatencyLimit(str(path), fraction=1.0)
    return Meter().usage(couple(read(model)).unpruned, Budget(latency_ms=limit))[limit.key]


def fit_row(name: str, recipe: str) -> Row:
    """How well whole networks of random widths are predicted."""
    model = tflite_tools.LatencyModel.load(latency_file(name, recipe))
    found: Row = {"seconds": round(model.seconds, 1), "ms": model.measured_ms, "held_out": _HELD_OUT.value}
    for form, quality in model.whole.items():
        found[form] = {"mean_percent": quality.mean_percent, "spearman": quality.spearman, "r2": quality.r2}
    return found


def examples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labelled examples to measure importance with; of the keywords, which have no training set here, one half."""
    if "kws" in name:
        samples = SAMPLES[name](500)
        assert samples.labels is not None
        return samples.inputs, samples.labels
    images, labels = load_tiles(SHARED / "cifar10/train_1.npz")
    floats = images[:1024].astype(np.float32)
    if "resnet8" not in name:
        from tests.benchmarks.shared_data import CIFAR_MEAN, CIFAR_STD

        floats = (floats / 255 - CIFAR_MEAN) / CIFAR_STD
    return floats, labels[:1024].astype(int)


def accuracy(model: keras.Model, name: str) -> float:
    """Top-1 in per cent on images that importance did not see."""
    if "kws" in name:
        samples = SAMPLES[name](1000)
        inputs, labels = samples.inputs[500:], samples.labels
        assert labels is not None
        labels = labels[500:]
    else:
        samples = cifar10(_TEST.value, normalise="resnet8" not in name)
        inputs, labels = samples.inputs, samples.labels
    outputs = model.predict(inputs, batch_size=250, verbose=0)
    return float(100 * np.mean(outputs.argmax(-1) == labels))


def accuracy_row(name: str, recipe: str) -> Row:
    """Latency budget against MAC budget at the same latency."""
    path = latency_file(name, recipe)
    data = examples(name)
    options: Row = {"data": data, "importance": _once("fisher"), "recovery": (), "time_limit_s": 10.0}
    by_time = keras_qcqp.prune(network(name), {"latency_ms": LatencyLimit(str(path), fraction=0.5)}, **options)
    target = predicted(by_time.model, path)
    low, high, by_macs = 0.05, 1.0, None
    for _ in range(6):  # the most MACs that are predicted to take no longer
        middle = (low + high) / 2
        result = keras_qcqp.prune(network(name), {"macs": middle}, **options)
        if predicted(result.model, path) <= target:
            low, by_macs = middle, result
        else:
            high = middle
    assert by_macs is not None
    before, time_ms, macs_ms = measured([network(name), by_time.model, by_macs.model], path)
    found: Row = {"dense": {"ms": before, "top1": accuracy(network(name), name)}}
    for key, result, ms in (("latency", by_time, time_ms), ("macs", by_macs, macs_ms)):
        mended = keras_qcqp.recover(network(name), result.model, result.plan, data[0])
        macs = keras_qcqp.measure(result.model)["macs"]
        found[key] = {"ms": ms, "top1": accuracy(mended.model, name), "macs": macs}
    return found


def _once(name: str) -> Callable[[Any], Any]:
    """A criterion that measures once: only the budget differs."""
    weigh, known = criterion(name, True), list[Any]()

    def remembered(evidence: Any) -> Any:
        if not known:
            known.extend(weigh(evidence))
        return known

    return remembered


def speed_row(name: str, recipe: str) -> Row:
    """Half of the MACs, with widths of the device and with any."""
    path = latency_file(name, recipe)
    models = [network(name)]
    for multiple in (f"auto@{path}", 1):
        widths = {"width_multiple": multiple}
        models.append(keras_qcqp.prune(network(name), {"macs": 0.5}, widths=widths, time_limit_s=20).model)
    before, auto, free = measured(models, path)
    return {"ms": before, "auto_ms": auto, "free_ms": free, "auto": before / auto, "free": before / free}


def verify_row(name: str, recipe: str, seed: int) -> Row:
    """A random limit, verified and measured again."""
    path = latency_file(name, recipe)
    share = float(np.random.default_rng(seed).uniform(0.45, 0.9))
    ms = share * tflite_tools.LatencyModel.load(path).measured_ms
    limit = LatencyLimit(str(path), ms=ms)
    try:
        result = keras_qcqp.prune(network(name), {"latency_ms": limit}, verify=True, time_limit_s=10)
    except keras_qcqp.InfeasibleError as error:
        return {"share": share, "limit_ms": ms, "error": str(error)}
    (found,) = result.latencies
    (again,) = measured([result.model], path)
    return {
        "share": share,
        "limit_ms": ms,
        "predicted_ms": found.predicted_ms,
        "measured_ms": found.measured_ms,
        "again_ms": again,
        "rounds": found.rounds,
    }


def jobs() -> Iterator[tuple[str, str, str, int, Callable[[], Row]]]:
    """Kind, network, recipe, seed, and how to make the row."""
    for recipe in ("int8", "float32"):
        yield from (("fit", n, recipe, 0, functools.partial(fit_row, n, recipe)) for n in FITTED)
    yield from (("speed", n, "int8", 0, functools.partial(speed_row, n, "int8")) for n in SPED_UP)
    yield from (("accuracy", n, "int8", 0, functools.partial(accuracy_row, n, "int8")) for n in WEIGHED)
    for seed in range(_LIMITS.value):
        name = VERIFIED[seed % len(VERIFIED)]
        yield "verify", name, "int8", seed, functools.partial(verify_row, name, "int8", seed)


def main(argv: list[str]) -> None:
    del argv
    path = Path(_OUTPUT.value)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {tuple(json.loads(line)[key] for key in ("kind", "model", "recipe", "seed")) for line in lines}
    for kind, name, recipe, seed, make in jobs():
        if (
            kind not in _ROWS.value
            or (_MODELS.value and name not in _MODELS.value)
            or (kind, name, recipe, seed) in done
        ):
            continue
        began = time.perf_counter()
        row = {"kind": kind, "model": name, "recipe": recipe, "seed": seed, **make()}
        row["row_seconds"] = round(time.perf_counter() - began, 1)
        with path.open("a") as stream:  # a line at once
            stream.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    app.run(main)
