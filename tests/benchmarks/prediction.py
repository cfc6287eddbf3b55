"""Does importance predict the loss? Rank correlation over random selections, for each criterion.

    python -m tests.benchmarks.prediction --models=resnet20_cifar10 --num_selections=40 --output=prediction.json

Each selection has a random MAC budget (40 to 95 %), random widths within it and random channels. Predicted: importance
lost. Measured: increase of the cross-entropy on training images that no criterion has seen, of the network as it is
and after least squares. Spearman's rank correlation between the two, with a 95 % bootstrap interval.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from scipy.stats import bootstrap, spearmanr

import keras_qcqp
from keras_qcqp.importance import CRITERIA
from keras_qcqp.plan import plan_from
from keras_qcqp.problem import Keep, evaluate
from keras_qcqp.samples import Samples
from tests.benchmarks import selectors
from tests.benchmarks.accuracy_rows import Subject
from tests.benchmarks.shared_data import CIFAR_MEAN, CIFAR_STD, DATA, load_tiles, model_path

_MODELS = flags.DEFINE_list("models", ["resnet20_cifar10"], "Shared networks.")
_CRITERIA = flags.DEFINE_list("criteria", sorted(CRITERIA), "Criteria of the package.")
_NUM_SELECTIONS = flags.DEFINE_integer("num_selections", 40, "Random selections.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1024, "Training images for importance and recovery.")
_OUTPUT = flags.DEFINE_string("output", None, "All numbers as JSON.")


def main(argv: list[str]) -> None:
    """Prints a Markdown table for each network."""
    del argv
    told = {name: _network(name) for name in _MODELS.value}
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(json.dumps(told), encoding="utf-8")


def _network(name: str) -> dict[str, Any]:
    model = keras.models.load_model(model_path(name), compile=False)
    subject = Subject(name, model, images(1, _NUM_SAMPLES.value), 0, None)
    unseen = images(2, 1000)
    whole = cross_entropy(model, unseen)
    random = np.random.default_rng(0)
    fractions = random.uniform(0.4, 0.95, _NUM_SELECTIONS.value)
    keeps = [_random(subject, f, k) for k, f in enumerate(fractions)]
    measured: dict[str, list[float]] = {"as is": [], "after least squares": []}
    for keep in keeps:
        plan = plan_from(subject.coupling, keep)
        pruned = keras_qcqp.rebuild(model, plan)
        measured["as is"].append(cross_entropy(pruned, unseen) - whole)
        won = keras_qcqp.recover(model, pruned, plan, subject.samples, num_samples=512)
        measured["after least squares"].append(cross_entropy(won.model, unseen) - whole)
        print(f"{len(measured['as is'])} of {len(keeps)}", [round(m[-1], 3) for m in measured.values()], flush=True)
    predicted = {criterion: _lost(subject, criterion, keeps) for criterion in _CRITERIA.value}
    print(table(name, predicted, measured))
    return {"fractions": fractions.tolist(), "predicted": predicted, "measured": measured}


def _random(subject: Subject, fraction: float, seed: int) -> Keep:
    return selectors.random_(subject.problem("magnitude", float(fraction)), seed, random_widths=True)


def _lost(subject: Subject, criterion: str, keeps: list[Keep]) -> list[float]:
    problem = subject.problem(criterion, 0.99)
    whole = evaluate(problem, problem.everything())[0]
    return [whole - evaluate(problem, keep)[0] for keep in keeps]


def table(name: str, predicted: dict[str, list[float]], measured: dict[str, list[float]]) -> str:
    """One line for each criterion, best after least squares first."""
    lines = [f"| {name} | " + " | ".join(measured) + " |", "|---|" + "---:|" * len(measured)]
    rows = {c: [_correlation(values, m) for m in measured.values()] for c, values in predicted.items()}
    for criterion, cells in sorted(rows.items(), key=lambda row: -row[1][-1][0]):
        lines.append(f"| {criterion} | " + " | ".join(f"{r:.2f} ({a:.2f} to {b:.2f})" for r, a, b in cells) + " |")
    return "\n".join(lines)


def _correlation(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """Spearman's rho and its 95 % bootstrap interval."""
    interval = bootstrap(
        (x, y), lambda a, b: spearmanr(a, b).statistic, paired=True, vectorized=False, n_resamples=999, rng=0
    ).confidence_interval
    return float(spearmanr(x, y).statistic), float(interval.low), float(interval.high)


def images(pack: int, count: int) -> Samples:
    """The first training images of one of the five packs, as the shared ResNets want them."""
    pixels, labels = load_tiles(DATA / f"cifar10/train_{pack}.npz")
    inputs = (pixels[:count].astype(np.float32) / 255 - CIFAR_MEAN) / CIFAR_STD
    return Samples((inputs,), labels[:count].astype(int))


def cross_entropy(model: keras.Model, samples: Samples) -> float:
    """Mean over the examples, of logits."""
    logits = model.predict(samples.inputs[0], verbose=0, batch_size=250).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    chosen = logits[np.arange(len(logits)), samples.labels]
    return float(np.mean(np.log(np.exp(logits).sum(axis=-1)) - chosen))


if __name__ == "__main__":
    app.run(main)
