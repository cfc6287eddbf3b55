"""The whole road on real handwritten digits: train a residual CNN, prune it, fine-tune it, export it, measure it.

Examples:
  python examples/digits.py                                  # under two minutes on two CPU cores
  python examples/digits.py --macs=0.25 --output_dir=quarter
  python examples/digits.py --epochs=1 --finetune_epochs=1   # to see the road, not the figures

Prints one table, the network before and after. Leaves in --output_dir: original.keras, pruned.keras, plan.json (which
channels stayed), report.txt (layer by layer, then the table), four .tflite files, and summary.json (all figures).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import digits_network as network  # before Keras: chooses its backend and keeps it quiet
import keras
import numpy as np
from absl import app, flags
from rich import box
from rich.console import Console
from rich.table import Table

import keras_qcqp
import tflite_tools

_OUTPUT_DIR = flags.DEFINE_string("output_dir", ".quickstart", "Where all files go; created if missing.")
_MACS = flags.DEFINE_float("macs", 0.4, "Fraction of the multiply-accumulates to keep.", 0.1, 1.0)
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of training.", 1)
_FINETUNE_EPOCHS = flags.DEFINE_integer("finetune_epochs", 4, "Epochs of training after pruning.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, order and search; the test images are always the same.")

_RECIPES = ("float32", "int8")
_ROWS = (
    ("keras_accuracy", "test accuracy, Keras float32", "{:.2%}"),
    ("int8_accuracy", "test accuracy, int8 .tflite in LiteRT", "{:.2%}"),
    ("macs", "MACs", "{:,}"),
    ("params", "parameters", "{:,}"),
    ("float32_bytes", "bytes of the float32 .tflite", "{:,}"),
    ("int8_bytes", "bytes of the int8 .tflite", "{:,}"),
    ("float32_ms", "ms for one image, float32 .tflite", "{:.4f}"),
    ("int8_ms", "ms for one image, int8 .tflite", "{:.4f}"),
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What there is to say of one network."""

    keras_accuracy: float
    int8_accuracy: float
    macs: int
    params: int
    float32_bytes: int
    int8_bytes: int
    float32_ms: float
    int8_ms: float


def main(argv: list[str]) -> int:
    """Goes the whole road; returns the exit status."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; give options as --name=value")
    try:
        print(run(Path(_OUTPUT_DIR.value)))
    except (keras_qcqp.QcqpError, tflite_tools.TfliteToolsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(folder: Path) -> str:
    """Fills `folder` and returns the text to print."""
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(_SEED.value)
    train, test = network.load_images()
    many, seconds = network.shifted(train), dict[str, float]()
    with stage("train", seconds):
        original = network.residual_cnn()
        network.fit(original, many, _EPOCHS.value, say)
    with stage("prune", seconds):
        result = prune(original)
        unrecovered = network.keras_accuracy(result.model, test)
        say(f"test accuracy without fine-tuning {unrecovered:.2%}")
    with stage("fine-tune", seconds):
        network.fit(result.model, many, _FINETUNE_EPOCHS.value, say)
    models = {"original": original, "pruned": result.model}
    with stage("convert", seconds):
        paths = export(models, train.x, folder)
    with stage("measure", seconds):
        profiles = tflite_tools.profile(paths)  # one session in which all four take turns
        before, after = (figures(name, model, test, paths, profiles) for name, model in models.items())
    table = render(before, after, [f"{len(test.x)} test images", *remarks(profiles), f"all files are in {folder}"])
    result.plan.save(folder / "plan.json")
    (folder / "report.txt").write_text(f"{result.report}\n\n{table}\n", encoding="utf-8")
    summary = {
        "macs_limit": math.floor(_MACS.value * before.macs),
        "original": dataclasses.asdict(before),
        "pruned": dataclasses.asdict(after),
        "pruned_accuracy_without_finetuning": unrecovered,
        "flags": {flag.name: flag.value for flag in (_MACS, _EPOCHS, _FINETUNE_EPOCHS, _SEED)},
        "seconds": seconds,
        "environment": dict(profiles["original_float32"].environment),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return table


def prune(model: keras.Model) -> keras_qcqp.PruneResult:
    """Prunes to the budget, with two rules about widths that the budget alone does not imply."""
    # Magnitudes spend a MAC budget on the late layers, rich in weights, and leave early ones a single channel. So each
    # keeps at least half the width it would have if all shrank alike (MACs go with the square of the width).
    least = 0.5 * math.sqrt(_MACS.value)
    # Kernels work on blocks of channels: at equal MACs, multiples of 8 were 2 to 5 % faster here than free widths.
    budget = {"macs": _MACS.value}
    widths = {"min_keep": least, "width_multiple": 8}
    return keras_qcqp.prune(model, budget, widths=widths, seed=_SEED.value, progress=say)


def export(models: Mapping[str, keras.Model], samples: np.ndarray, folder: Path) -> dict[str, Path]:
    """Writes each model as .keras and by each recipe as .tflite; returns the latter as `<model>_<recipe>`."""
    paths = {}
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
        for recipe in _RECIPES:
            paths[f"{name}_{recipe}"] = path = folder / f"{name}_{recipe}.tflite"
            path.write_bytes(tflite_tools.convert(model, recipe, samples))
    return paths


def figures(
    name: str,
    model: keras.Model,
    test: network.Images,
    paths: Mapping[str, Path],
    profiles: Mapping[str, tflite_tools.Profile],
) -> Figures:
    """Everything the table says of one network."""
    cost = keras_qcqp.measure(model)
    float32, int8 = (profiles[f"{name}_{recipe}"] for recipe in _RECIPES)
    return Figures(
        keras_accuracy=network.keras_accuracy(model, test),
        int8_accuracy=network.tflite_accuracy(paths[f"{name}_int8"], test),
        macs=cost["macs"],
        params=cost["params"],
        float32_bytes=float32.size_bytes,
        int8_bytes=int8.size_bytes,
        float32_ms=float32.latency_ms,
        int8_ms=int8.latency_ms,
    )


def remarks(profiles: Mapping[str, tflite_tools.Profile]) -> list[str]:
    """How the times were taken, and what the device says about believing them."""
    first = profiles["original_float32"]
    how = f"ms: fastest of {first.num_runs} runs, the files taking turns, {first.num_threads} thread"
    notes = dict.fromkeys(note for profile in profiles.values() for note in profile.notes)
    return [f"{how}, {first.environment['cpu']}", *notes]


def render(before: Figures, after: Figures, remarks: list[str]) -> str:
    """The table as plain text: costs as ratios before / after, accuracies as differences."""
    table = Table("", box=box.ASCII)
    for heading in ("original", "pruned", "change"):
        table.add_column(heading, justify="right")
    for field, label, form in _ROWS:
        a, b = getattr(before, field), getattr(after, field)
        change = f"{100 * (b - a):+.2f} points" if form.endswith("%}") else f"{a / b:.2f}x less"
        table.add_row(label, form.format(a), form.format(b), change)
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return "\n".join([text.getvalue().rstrip(), *remarks])


def say(line: str) -> None:
    """Progress goes to standard error; standard output holds the result alone."""
    print(f"  {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Announces a stage and notes how long it took."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - begin, 1)
    say(f"{name} took {seconds[name]:.1f} s")


if __name__ == "__main__":
    app.run(main)
