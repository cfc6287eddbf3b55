"""Top-1 accuracy after pruning, without any training: importance x solver x recovery, at equal MACs.

    python -m tests.benchmarks.accuracy --output=accuracy.jsonl
    python -m tests.benchmarks.accuracy --models=resnet20_cifar10 --fractions=0.7 --selections='fisher, exact'
    python -m tests.benchmarks.peer_selection --output=peers            # Torch-Pruning's choices, by its own process
    python -m tests.benchmarks.accuracy --peers=peers --output=accuracy.jsonl

Every selection keeps at most the same MACs (Torch-Pruning: the first step at or below them), is rebuilt by this package
and gets the same recovery from the same training images; accuracy is that of all 10,000 test images of CIFAR-10 (for
ImageNet: of 500 of the shared samples, the other 500 calibrate). Each row is appended to --output as a line of JSON as
soon as it is known; what is there already is not computed again. Ends with the table of all rows, in Markdown.
"""

from __future__ import annotations

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
from keras_qcqp.plan import plan_from
from keras_qcqp.samples import Samples
from tests.benchmarks.accuracy_rows import RECOVERIES, SELECTIONS, Subject, available
from tests.benchmarks.shared_data import (
    CIFAR_MEAN,
    CIFAR_STD,
    DATA,
    cifar10,
    imagenet,
    imagenet_images,
    load_tiles,
    model_path,
)

_MODELS = flags.DEFINE_list("models", ["resnet20_cifar10", "resnet56_cifar10"], "Shared networks.")
_FRACTIONS = flags.DEFINE_list("fractions", ["0.7", "0.6", "0.5", "0.4"], "Budgets: fractions of the MACs.")
_SELECTIONS = flags.DEFINE_multi_string("selections", None, "Only these rows (may be given several times).")
_RECOVERIES = flags.DEFINE_list("recoveries", ["none", "batch_norm", "least_squares"], "What follows each selection.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds: of the choice of training images, of chance, of the search.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 2048, "Training images for importance and recovery.")
_NUM_TEST = flags.DEFINE_integer("num_test", 10_000, "Test images.")
_PEERS = flags.DEFINE_string("peers", None, "Folder with the peer's selections.")
_OUTPUT = flags.DEFINE_string("output", None, "Rows as JSON lines; continued if the file is there.")


def main(argv: list[str]) -> None:
    """Makes the rows that are missing, then the table."""
    del argv
    store = Path(_OUTPUT.value) if _OUTPUT.value else None
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store and store.exists() else []
    done = {_key(row) for row in rows}
    for row in _rows(done):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if store:
            with store.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    print(table(rows))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "selection", "fraction", "seed", "recovery", "num_samples"))


def _rows(done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for name in _MODELS.value:
        model, tested = keras.models.load_model(model_path(name), compile=False), _tested(name)
        for seed in map(int, _SEEDS.value):
            samples = _training(name, seed)
            subject = Subject(name, model, samples, seed, Path(_PEERS.value) if _PEERS.value else None)
            for fraction in map(float, _FRACTIONS.value):
                for selection in _SELECTIONS.value or SELECTIONS:
                    given = {"model": name, "selection": selection, "fraction": fraction, "seed": seed}
                    wanted = [{**given, "recovery": r, "num_samples": len(samples)} for r in _RECOVERIES.value]
                    wanted = [row for row in wanted if _key(row) not in done]
                    if wanted and available(selection, subject):
                        yield from _measured(subject, wanted, tested)


def _measured(subject: Subject, wanted: list[dict[str, Any]], tested: Any) -> Iterator[dict[str, Any]]:
    began = time.monotonic()
    keep = SELECTIONS[wanted[0]["selection"]](subject, wanted[0]["fraction"])
    seconds = time.monotonic() - began
    plan = plan_from(subject.coupling, keep)
    pruned = keras_qcqp.rebuild(subject.model, plan)
    macs = keras_qcqp.measure(pruned)["macs"] / keras_qcqp.measure(subject.model)["macs"]
    for row in wanted:
        steps = RECOVERIES[row["recovery"]]
        recovered = pruned
        if steps:
            given = subject.samples
            recovered = keras_qcqp.recover(
                subject.model, pruned, plan, given, steps=steps, num_samples=len(given), seed=row["seed"]
            ).model
        scores = recovered.predict(tested.inputs, verbose=0, batch_size=250)
        top1 = 100 * float(np.mean(scores.argmax(-1) == tested.labels))
        kept = [int(x.sum()) for x in keep]
        yield {**row, "top1": round(top1, 2), "macs": round(macs, 4), "kept": kept, "select_s": round(seconds, 1)}


def _tested(name: str) -> Any:
    return imagenet(500) if name.endswith("imagenet") else cifar10(_NUM_TEST.value)


def _training(name: str, seed: int) -> Samples:
    """Examples that no accuracy is measured on."""
    if name.endswith("imagenet"):
        inputs, labels = imagenet_images(False, 500)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(inputs))[: _NUM_SAMPLES.value])
        return Samples((inputs[chosen],), labels[chosen])
    images, labels = load_tiles(DATA / "cifar10/train_1.npz")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[: _NUM_SAMPLES.value])
    return Samples((((images[chosen].astype(np.float32) / 255 - CIFAR_MEAN) / CIFAR_STD),), labels[chosen].astype(int))


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each network, selection and recovery; mean and standard deviation where there are several seeds."""
    fractions = sorted({row["fraction"] for row in rows}, reverse=True)
    lines = ["| model | selection | recovery |" + "".join(f" {100 * f:.0f} % |" for f in fractions)]
    lines.append("|---|---|---|" + "---:|" * len(fractions))
    for model, selection, recovery in dict.fromkeys((r["model"], r["selection"], r["recovery"]) for r in rows):
        cells = []
        for fraction in fractions:
            found = [
                r["top1"]
                for r in rows
                if (r["model"], r["selection"], r["recovery"], r["fraction"]) == (model, selection, recovery, fraction)
            ]
            spread = f" ± {np.std(found):.2f}" if len(found) > 1 else ""
            cells.append(f" {np.mean(found):.2f}{spread} |" if found else " - |")
        lines.append(f"| {model} | {selection} | {recovery} |" + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
