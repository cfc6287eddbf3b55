"""Prunes the shared trained networks without any fine-tuning and measures everything that can be measured.

    python -m tests.benchmarks.prune_shared_models --output=results.json
    python -m tests.benchmarks.prune_shared_models --models=resnet20_cifar10 --fractions=0.7 --noedge

Columns: seconds for read + couple, solve, rebuild; used: share of the MAC limit that is used; gap: certified; law: max
|rebuilt - masked original| / max |masked original| on real inputs, float32; top-1 before and after; .tflite kilobytes,
before and after; speed-up on this host: latency before / after, minimum over interleaved rounds, one thread. Nothing is
trained. The table is Markdown.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from rich import box
from rich.console import Console
from rich.table import Table

import keras_qcqp
import tflite_tools
from keras_qcqp import build, coupling, graph, importance, keras_graph, plan, solvers
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.limits.budget import Budget
from tests.benchmarks.shared_data import SAMPLES, Samples, model_path

_MODELS = flags.DEFINE_list("models", list(SAMPLES), "Shared networks to prune.")
_FRACTIONS = flags.DEFINE_list("fractions", ["0.7", "0.5"], "MACs to keep.")
_MIN_KEEP = flags.DEFINE_float("min_keep", 0.25, "As for keras_qcqp.prune.")
_COUNT = flags.DEFINE_integer("count", 2000, "Samples for accuracy (500 at most for ImageNet).")
_EDGE = flags.DEFINE_bool("edge", True, "Also convert to float32 and int8 and measure on this host.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the rows.")


def predict(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """All outputs, in batches."""
    return model.predict(inputs, batch_size=100, verbose=0)


def accuracy(outputs: np.ndarray, labels: np.ndarray | None) -> float | None:
    """Top-1 in per cent."""
    return None if labels is None else float(100 * np.mean(outputs.argmax(-1) == labels))


def pruned(model: keras.Model, fraction: float) -> tuple[keras.Model, plan.Plan, dict[str, Any]]:
    """Prunes step by step, so that each can be timed."""
    began = time.perf_counter()
    coupled = coupling.couple(graph.read(model))
    seconds = {"couple_s": time.perf_counter() - began}
    scores = importance.criterion("magnitude")(Evidence(coupled, keras_graph.weight_values(model)))
    widths = keras_qcqp.Widths(min_keep=_MIN_KEEP.value)
    problem, _ = build.build_problem(coupled, scores, Budget(macs=fraction), widths)
    solution = solvers.solve(problem)
    seconds["solve_s"] = solution.seconds
    chosen = plan.plan_from(coupled, solution.keep)
    began = time.perf_counter()
    smaller = keras_qcqp.rebuild(model, chosen)
    seconds["rebuild_s"] = time.perf_counter() - began
    measured = keras_qcqp.measure(smaller)
    assert measured == dict(solution.usage), "the rebuilt model costs what the solver promised"
    seconds["gap_percent"] = 100 * solution.gap
    return smaller, chosen, {**seconds, "used_percent": 100 * measured["macs"] / problem.limits["macs"]}


def edge(model: keras.Model, smaller: keras.Model, samples: Samples) -> dict[str, Any]:
    """File sizes and host latency ratios for float32 and int8."""
    found: dict[str, Any] = {}
    for recipe in ("float32", "int8"):
        data = samples.calibration if recipe == "int8" else None
        before, after = (tflite_tools.convert(m, recipe, data) for m in (model, smaller))
        found[f"{recipe}_bytes"] = [len(before), len(after)]
        try:
            found[f"{recipe}_speed_up"] = tflite_tools.compare_latency(before, after).latency_ratio
        except tflite_tools.DeviceError as error:
            found[f"{recipe}_error"] = str(error)
            print(f"  {recipe}: {error}", flush=True)
    return found


def rows_of(name: str) -> list[dict[str, Any]]:
    """One row for each fraction."""
    model = keras.models.load_model(model_path(name), compile=False)
    samples = SAMPLES[name](min(_COUNT.value, 500) if "imagenet" in name else _COUNT.value)
    before = accuracy(predict(model, samples.inputs), samples.labels)
    rows = []
    for fraction in map(float, _FRACTIONS.value):
        smaller, chosen, row = pruned(model, fraction)
        after = predict(smaller, samples.inputs)
        reference = predict(keras_qcqp.masked(model, chosen), samples.inputs)
        row |= {
            "model": name,
            "fraction": fraction,
            "top1_before": before,
            "top1_after": accuracy(after, samples.labels),
        }
        row["law"] = float(np.abs(after - reference).max() / np.abs(reference).max())
        if _EDGE.value:
            row |= edge(model, smaller, samples)
        rows.append(row)
    return rows


HEADS = "model|MACs|couple s|solve s|rebuild s|used %|gap %|law|top-1 %|f32 kB|int8 kB|f32 speed-up|int8 speed-up"


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table."""
    table = Table(box=box.MARKDOWN)
    for head in HEADS.split("|"):
        table.add_column(head, no_wrap=True)
    for r in rows:
        table.add_row(*_cells(r))
    Console(width=250).print(table)


def _cells(r: dict[str, Any]) -> list[str]:
    before, after = (f"{r[k]:.1f}" if r[k] is not None else "-" for k in ("top1_before", "top1_after"))
    cells = [r["model"], f"{r['fraction']:.0%}", *(f"{r[k]:.2f}" for k in ("couple_s", "solve_s", "rebuild_s"))]
    cells += [f"{r['used_percent']:.2f}", f"{r['gap_percent']:.1f}", f"{r['law']:.0e}", f"{before} -> {after}"]
    recipes = [k for k in ("float32", "int8") if f"{k}_bytes" in r]
    cells += [" -> ".join(f"{b / 1000:,.0f}" for b in r[f"{k}_bytes"]) for k in recipes] or ["-", "-"]
    cells += [f"{r[f'{k}_speed_up']:.2f}x" if f"{k}_speed_up" in r else "refused" for k in recipes] or ["-", "-"]
    return cells


def main(argv: list[str]) -> None:
    del argv
    rows: list[dict[str, Any]] = []
    for name in _MODELS.value:
        print(name, flush=True)
        rows += rows_of(name)
        if _OUTPUT.value:
            Path(_OUTPUT.value).write_text(json.dumps(rows, indent=1))
    show(rows)


if __name__ == "__main__":
    app.run(main)
