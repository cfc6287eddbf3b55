"""The callback that keeps a run's state at each epoch's end, in memory and on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import TrainingError
from keras_qcqp.finetuning import checkpoint
from keras_qcqp.finetuning.checkpoint import State, Values
from keras_qcqp.finetuning.settings import FinetuneSettings

Better = Callable[[float, float], bool]


class Companion(keras.callbacks.Callback):
    """A callback whose state belongs to that of the run: kept with each checkpoint, and set again by a resumed run."""

    def kept(self) -> dict[str, np.ndarray]:
        """All that it needs to go on."""
        raise NotImplementedError

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """Goes on from there."""
        raise NotImplementedError


class Recorder(keras.callbacks.Callback):
    """History, the variables of the last and of the best epoch, and the checkpoint.

    Attributes:
        history: name -> one number for each finished epoch.
        variables, best: the student's variables after the last and after the best epoch.
        best_epoch: counted from 1.
        stopped: whether Ctrl-C came.
        companion: another callback, whose state is kept along.
    """

    def __init__(
        self,
        student: keras.Model,
        data: Any,
        path: Path | None,
        run: Mapping[str, Any],
        tell: Callable[[str], None],
        settings: FinetuneSettings,
        companion: Companion | None = None,
    ) -> None:
        super().__init__()
        self._student, self._data, self._path, self._run = student, data, path, run
        self._tell, self._epochs = tell, settings.epochs
        self.companion = companion
        self.history: dict[str, list[float]] = {}
        self.variables: Values = ()
        self.best: Values = ()
        self.best_epoch = 0
        self.stopped = False

    @property
    def num_epochs(self) -> int:
        """How many are finished."""
        return len(self.history.get("loss", ()))

    def begin(self, trained: keras.Model, resume: bool) -> None:
        """Goes back to where the checkpoint was written, if there is one."""
        state = checkpoint.load(self._path, self._run) if self._path and resume else None
        if state is None:
            return
        optimizer = trained.optimizer
        optimizer.build(trained.trainable_variables)
        checkpoint.assign(self._student.variables, state.variables)
        checkpoint.assign(optimizer.variables, state.optimizer)
        self.history = {name: list(values) for name, values in state.history.items()}
        self.variables, self.best, self.best_epoch = state.variables, state.best, state.best_epoch
        if self.companion:
            self.companion.restore(state.companion)
        self._tell(f"resumed after epoch {self.num_epochs} of {self._epochs}")

    def stop(self) -> None:
        """Ends the run before the next batch, with KeyboardInterrupt."""
        self.stopped = True

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """The one place between batches where Keras never calls from a thread of its own."""
        if self.stopped:
            raise KeyboardInterrupt

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """As while training; the epoch does not count then."""
        if self.stopped:
            raise KeyboardInterrupt

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Draws the order of the epoch's samples; Keras asks for the first batch after this."""
        if hasattr(self._data, "start"):
            self._data.start(epoch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Notes everything, then replaces the checkpoint."""
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        numbers = {name: float(value) for name, value in (logs or {}).items()} | {"learning_rate": rate}
        if not math.isfinite(numbers["loss"]):
            raise TrainingError(
                f"The loss became {numbers['loss']} in epoch {epoch + 1}. Lower learning_rate, or let it rise over "
                "some warmup_epochs."
            )
        for name, value in numbers.items():
            self.history.setdefault(name, []).append(value)
        self.variables = checkpoint.values_of(self._student.variables)
        if _best_epoch(self.history) == self.num_epochs:
            self.best, self.best_epoch = self.variables, self.num_epochs
        if self._path:
            optimizer = checkpoint.values_of(self.model.optimizer.variables)
            kept = self.companion.kept() if self.companion else {}
            state = State(self.history, self.variables, optimizer, self.best_epoch, self.best, kept)
            checkpoint.save(self._path, state, self._run)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self._tell(f"epoch {epoch + 1}/{self._epochs}: {shown}")


def monitored(history: Mapping[str, Sequence[float]]) -> tuple[str | None, Better]:
    """The entry by which epochs are compared, and which of two of its values is better.

    A validation accuracy of whatever name, else the validation loss; nothing of the training data.
    """
    accuracies = [name for name in history if name.startswith("val_") and "acc" in name]
    if accuracies:
        return accuracies[0], lambda a, b: a > b
    return ("val_loss" if "val_loss" in history else None), lambda a, b: a < b


def _best_epoch(history: Mapping[str, Sequence[float]]) -> int:
    """Of equals the first; the last where nothing is monitored."""
    monitor, better = monitored(history)
    values = history[monitor or "loss"]
    if monitor is None:
        return len(values)
    best = 0
    for k, value in enumerate(values):
        if better(value, values[best]):
            best = k
    return best + 1
