"""What each number format costs in accuracy and saves in bytes, on real trained networks, dense and pruned.

    python -m tests.benchmarks.quantization --output=quantization.jsonl
    python -m tests.benchmarks.quantization --models=resnet20_cifar10 --variants=dense --recipes=int8,mixed
    python -m tests.benchmarks.quantization --models=resnet20_cifar10 --given=tuned.keras --output=quantization.jsonl

Variants: "dense" is the network as it is; "pruned" has 50 % of its MACs, chosen by activation importance and fitted by
least squares, not trained; --given measures a file of your own in its place. Formats: recipes of
`tflite_tools.convert`, and "mixed" (`tflite_tools.mix`, within 10 % more bytes). Top-1 is that of the same images in
Keras float32 and in the file; ImageNet: half of the shared samples, the other half calibrates. Foretold: what
`keras_qcqp.measure` says about bytes and peak before anything is converted, against the file and its arena. Each row is
appended to --output as a line of JSON as soon as it is known; what is there is not measured again. Ends with the table,
in Markdown.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_qcqp
import tflite_tools
from keras_qcqp import resources
from keras_qcqp.deployed import RECIPES as FORETOLD
from tests.benchmarks.shared_data import SAMPLES, Samples, model_path

_NETWORKS = (
    "mlperf_kws_dscnn",
    "mlperf_resnet8_cifar10",
    "resnet20_cifar10",
    "mobilenetv1_025_224_imagenet",
    "mobilenetv2_100_224_imagenet",
    "resnet56_cifar10",
)
_MODELS = flags.DEFINE_list("models", list(_NETWORKS), "Shared networks.")
_VARIANTS = flags.DEFINE_list("variants", ["dense", "pruned"], "Which of: dense, pruned.")
_FORMATS = flags.DEFINE_list("recipes", ["float16", "int8", "mixed"], "Recipes, or 'mixed'.")
_GIVEN = flags.DEFINE_string("given", None, "A .keras file to measure instead of the (only) model's variants.")
_COUNT = flags.DEFINE_integer("count", 2000, "Test samples (500 at most for ImageNet).")
_OUTPUT = flags.DEFINE_string("output", None, "Rows as JSON lines; continued if the file is there.")

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Makes the rows that are missing, then the table."""
    del argv
    store = Path(_OUTPUT.value) if _OUTPUT.value else None
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store and store.exists() else []
    done = {_key(row) for row in rows}
    for name in _MODELS.value:
        for row in _rows(name, done):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if store:
                with store.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
    print(table(rows))


def _key(row: Row) -> tuple[Any, ...]:
    return row["model"], row["variant"], row["recipe"], row["count"]


def _rows(name: str, done: set[tuple[Any, ...]]) -> Iterator[Row]:
    count = min(_COUNT.value, 500) if "imagenet" in name else _COUNT.value
    variants = [Path(_GIVEN.value).name] if _GIVEN.value else _VARIANTS.value
    for variant in variants:
        wanted = [r for r in _FORMATS.value if (name, variant, r, count) not in done]
        if not wanted:
            continue
        dense = keras.models.load_model(model_path(name), compile=False)
        samples = _samples(name, dense, count)
        model = keras.models.load_model(_GIVEN.value, compile=False) if _GIVEN.value else dense
        if variant == "pruned":
            model = _pruned(dense, samples)
        assert samples.labels is not None
        expected = model.predict(samples.inputs, batch_size=100, verbose=0)
        given = {"model": name, "variant": variant, "count": count, "top1_keras": _top1(expected, samples.labels)}
        given["float32_bytes"] = len(tflite_tools.convert(model))
        for recipe in wanted:
            yield {**given, "recipe": recipe, **_measured(model, recipe, samples, expected)}


def _samples(name: str, model: keras.Model, count: int) -> Samples:
    """Labels of the ImageNet samples count a background class, which not every network has."""
    found = SAMPLES.get(name, SAMPLES["mobilenetv2_100_224_imagenet"])(count)
    if "imagenet" in name and model.output_shape[-1] == 1000 and found.labels is not None:
        return dataclasses.replace(found, labels=found.labels - 1)
    return found


def _pruned(model: keras.Model, samples: Samples) -> keras.Model:
    result = keras_qcqp.prune(
        model, {"macs": 0.5}, data=samples.calibration, importance="activation", num_samples=200, time_limit_s=15
    )
    return result.model


def _measured(model: keras.Model, recipe: str, samples: Samples, expected: np.ndarray) -> Row:
    began = time.monotonic()
    if recipe == "mixed":
        data = tflite_tools.mix(model, samples.calibration, num_samples=32).data
    else:
        data = tflite_tools.convert(model, recipe, samples.calibration)
    seconds = time.monotonic() - began
    facts = tflite_tools.read_facts(data)
    found = next(iter(tflite_tools.predict(data, samples.inputs).values()))
    row = {
        "top1": _top1(found, samples.labels),
        "agreement": round(100 * float(np.mean(found.argmax(-1) == expected.argmax(-1))), 2),
        "size_bytes": len(data),
        "arena_bytes": facts.arena_bytes,
        "peak_bytes": facts.peak_bytes,
        "convert_s": round(seconds, 1),
    }
    if recipe in FORETOLD:
        told = resources.measure(model, recipe)
        row |= {"told_bytes": told["tflite_bytes"], "told_peak": told["peak_bytes"]}
    return row


def _top1(outputs: np.ndarray, labels: Any) -> float:
    return round(100 * float(np.mean(outputs.argmax(-1) == labels)), 2)


HEADS = (
    "network|variant|format|images|top-1 Keras|top-1 file|change|same class|kB float32|kB|foretold bytes|foretold arena"
)


def table(rows: list[Row]) -> str:
    """One line for each row."""
    lines = [f"| {HEADS.replace('|', ' | ')} |", "|---|---|---|" + "---:|" * (HEADS.count("|") - 2)]
    for r in sorted(rows, key=lambda r: (r["model"], r["variant"], r["recipe"])):
        cells = [r["model"], r["variant"], r["recipe"], f"{r['count']:,}", f"{r['top1_keras']:.2f}", f"{r['top1']:.2f}"]
        cells += [f"{r['top1'] - r['top1_keras']:+.2f}", f"{r['agreement']:.1f}"]
        cells += [f"{r[k] / 1000:,.1f}" for k in ("float32_bytes", "size_bytes")]
        told = "told_bytes" in r
        cells.append(f"{r['told_bytes'] / r['size_bytes'] - 1:+.2%}" if told else "-")
        cells.append(f"{r['told_peak'] / r['arena_bytes'] - 1:+.2%}" if told else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
