"""The callback that moves gates between batches of training, folds them into the kernels, and notes the curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.finetuning.recorder import Companion
from keras_qcqp.gradients import Loss, loss_and_gradients_of
from keras_qcqp.keras_graph import layers_by_path, named_weights
from keras_qcqp.problem import Keep, Problem, Solution
from keras_qcqp.samples import Samples
from keras_qcqp.tapering.gates import Gates
from keras_qcqp.tapering.reads import reads_of, scaled, slopes_of, weights_read
from keras_qcqp.tapering.schedule import Taper
from keras_qcqp.tapering.settings import TaperSettings
from keras_qcqp.tapering.soft import Soft

_LATE = 1.5  # beyond so many times the steps that were planned, the exact solver takes what is left in one go

Choose = Callable[[Sequence[np.ndarray]], Solution]
"""Importance float[size] of each mask -> the best selection within the budget."""

Note = Callable[[float, Keep, Mapping[str, float]], None]
"""(share that was passed, channels that are left, numbers): called when the first resource passes a point."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """What a motion is about.

    Attributes:
        coupling, problem: of the network before anything goes; importance in the problem does not matter.
        targets: float[limited resources], shares of the whole network.
        samples: examples that gates are moved by, with labels.
        loss: of the student, see `keras_qcqp.losses.loss_of`.
        points: shares of the first resource at which `note` is called, falling.
        choose: the exact solver.
        note: see `Note`.
        tell: called with a line of text.
        seed: of the draws of examples.
    """

    coupling: Coupling
    problem: Problem
    targets: np.ndarray
    samples: Samples
    loss: Loss
    points: tuple[float, ...]
    choose: Choose
    note: Note
    tell: Callable[[str], None]
    seed: int


class Motion(Companion):
    """Gates, schedule and curve of one run.

    Attributes:
        curve: one row for each step: share of each resource that the channels left cost, loss, price.
        keep: the final selection; None before arrival.
    """

    def __init__(self, plot: Plot, student: keras.Model, steps: int, settings: TaperSettings) -> None:
        super().__init__()
        self._plot, self._settings = plot, settings
        self._reads, free = reads_of(plot.coupling)
        sizes = [mask.size for mask in plot.problem.masks]
        least = [mask.allowed[0] for mask in plot.problem.masks]
        free = tuple(f and len(m.allowed) > 1 for f, m in zip(free, plot.problem.masks, strict=True))
        self.gates = Gates.open(Soft.of(plot.problem.limited, sizes), least, free, settings.speed)
        self.taper = Taper(plot.targets, max(steps // settings.every, 1), settings.tolerance)
        self.curve: list[tuple[float, ...]] = []
        self.keep: Keep | None = None
        self._batches = 0
        layers = layers_by_path(student)
        self._variables = {(a, b): named_weights(layers[a])[b] for a, b in weights_read(self._reads)}
        self._differentiate = loss_and_gradients_of(student, plot.loss, list(self._variables.values()))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Moves the gates every few batches; after arrival keeps what is gone at zero."""
        self._batches += 1
        if self._batches % self._settings.every:
            return
        _synchronise(self.model)
        if self.keep is None:
            self._move()
        else:
            self._drop(self.keep)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """The budget holds at the end, whatever happened; what is gone is exactly zero."""
        _synchronise(self.model)
        if self.keep is None:
            self._arrive()
        else:
            self._drop(self.keep)

    def _move(self) -> None:
        weights = self._weights()
        loss, found = self._differentiate(*self._batch())
        gradients = dict(zip(self._variables, found, strict=True))
        before = self.gates.values  # a step makes new arrays
        slopes = slopes_of(self._reads, before, weights, gradients)
        self.gates.step(slopes, self.taper.advance(loss))
        ratio = [
            np.divide(b, a, out=np.zeros_like(a), where=a > 0) for a, b in zip(before, self.gates.values, strict=True)
        ]
        self._fold(ratio, weights)
        self._write_down()
        if (self.gates.hard_shares() <= self._plot.targets).all() or self.taper.done > _LATE * self.taper.steps:
            self._arrive()

    def _batch(self) -> tuple[Any, Any]:
        """Drawn by step alone, so that a resumed run sees the same."""
        random = np.random.default_rng([self._plot.seed, self.taper.done])
        chosen = random.integers(0, len(self._plot.samples), self._settings.batch_size)
        part = self._plot.samples[np.sort(chosen)]
        return part.inputs, part.labels

    def _weights(self) -> dict[tuple[str, str], np.ndarray]:
        """The kernels that read channels, as they are now."""
        return {key: keras.ops.convert_to_numpy(v) for key, v in self._variables.items()}

    def _drop(self, keep: Keep) -> None:
        """Zeroes what reads the channels that go."""
        self._fold([np.asarray(kept, np.float64) for kept in keep], self._weights())

    def _fold(self, factors: Sequence[np.ndarray], weights: Mapping[tuple[str, str], np.ndarray]) -> None:
        """Multiplies what reads each channel."""
        for key, values in scaled(self._reads, factors, weights).items():
            self._variables[key].assign(values)

    def _write_down(self) -> None:
        shares, before = self.gates.hard_shares(), self.curve[-1][0] if self.curve else 1.0
        assert self.taper.loss is not None
        self.curve.append((*shares.tolist(), self.taper.loss, self.gates.price))
        for point in self._plot.points:
            if shares[0] <= point < before:
                numbers = {"share": float(shares[0]), "loss": self.taper.loss, "price": self.gates.price}
                self._plot.note(point, tuple(values > 0 for values in self.gates.values), numbers)

    def _arrive(self) -> None:
        """Whole channels by the exact solver: what gates are worth, and of those at 1 what the loss says."""
        self._plot.tell("choosing whole channels")
        counts = self.gates.counts()
        prices = self.gates.soft.prices(counts, 0)
        importance = []
        for price, values, slopes in zip(prices, self.gates.values, self.gates.slopes, strict=True):
            steepest = float(np.abs(slopes).max()) if len(slopes) else 0.0
            ties = np.maximum(-slopes, 0.0) / steepest if steepest > 0 else np.zeros_like(slopes)
            importance.append(max(price, 1e-12) * values * (1 + 0.1 * ties))
        self.keep = self._plot.choose(importance).keep
        self._drop(self.keep)

    def kept(self) -> dict[str, np.ndarray]:
        """Everything as arrays."""
        taper = {f"taper_{f.name}": getattr(self.taper, f.name) for f in dataclasses.fields(Taper)}
        found = {name: np.asarray(np.nan if value is None else value) for name, value in taper.items()}
        found |= {"size": np.asarray(self.gates.size), "price": np.asarray(self.gates.price)}
        found |= {"batches": np.asarray(self._batches), "curve": np.asarray(self.curve)}
        for k, (values, slopes) in enumerate(zip(self.gates.values, self.gates.slopes, strict=True)):
            found |= {f"values_{k}": values, f"slopes_{k}": slopes}
        if self.keep is not None:
            found |= {f"keep_{k}": kept for k, kept in enumerate(self.keep)}
        return found

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """The inverse of `kept`."""
        for field in dataclasses.fields(Taper):
            value = kept[f"taper_{field.name}"]
            setattr(self.taper, field.name, value if value.ndim else value.item())
        if np.isnan(kept["taper_loss"]):
            self.taper.loss = None
        self.gates.size, self.gates.price = float(kept["size"]), float(kept["price"])
        self._batches, self.curve = int(kept["batches"]), [tuple(row) for row in kept["curve"].tolist()]
        number = range(len(self.gates.values))
        self.gates.values, self.gates.slopes = ([kept[f"{name}_{k}"] for k in number] for name in ("values", "slopes"))
        if "keep_0" in kept:
            self.keep = tuple(kept[f"keep_{k}"] for k in number)


def _synchronise(model: keras.Model) -> None:
    """With JAX the weights of a model in training live elsewhere; brought back, they are taken from the variables."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
