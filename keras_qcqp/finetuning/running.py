"""One training run, as it was ordered: prepared, resumed, fitted, and handed over."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_qcqp import keras_graph
from keras_qcqp.errors import TrainingError
from keras_qcqp.files import check_writable
from keras_qcqp.finetuning import checkpoint
from keras_qcqp.finetuning.data import arguments_of_fit, fingerprint, num_steps, prepared
from keras_qcqp.finetuning.distilled import Distilled
from keras_qcqp.finetuning.interrupts import asked_to_stop
from keras_qcqp.finetuning.losses import compile_arguments
from keras_qcqp.finetuning.optimizers import fresh, half_cosine_sgd, uses_float16
from keras_qcqp.finetuning.recorder import Companion, Recorder, monitored
from keras_qcqp.finetuning.settings import FinetuneSettings
from keras_qcqp.legacy import modern
from keras_qcqp.losses import names_of
from keras_qcqp.rebuilder import duplicate

Tell = Callable[[str], None]
_CHECKPOINT = "finetuning.npz"


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` returns.

    Attributes:
        model: a new model with the trained weights, of the last epoch or, with `keep="best"`, of the best one.
        history: name ("loss", "accuracy", "val_accuracy", "learning_rate", ...) -> a number for each finished epoch.
        monitor: the entry of `history` by which epochs are compared; None without validation data.
        last, best: its value after the last epoch, and the best one.
        best_epoch: counted from 1; the last epoch where nothing is monitored.
        interrupted: Ctrl-C ended the run early; then `model` is that of the best epoch so far.
    """

    model: keras.Model
    history: Mapping[str, tuple[float, ...]]
    monitor: str | None
    last: float | None
    best: float | None
    best_epoch: int
    interrupted: bool = False

    @property
    def num_epochs(self) -> int:
        """How many are finished."""
        return len(self.history["loss"])

    def __str__(self) -> str:
        ended = "interrupted after" if self.interrupted else "finished"
        if self.monitor is None:
            return f"{ended} {self.num_epochs} epochs, loss {self.history['loss'][-1]:.4f}; no validation data"
        return (
            f"{ended} {self.num_epochs} epochs: {self.monitor} {self.last:.4f} after the last, "
            f"{self.best:.4f} after the best ({self.best_epoch})"
        )


@dataclasses.dataclass(frozen=True)
class Order:
    """What is asked for; the fields are the arguments of `finetune`."""

    model: keras.Model
    train_data: Any
    settings: FinetuneSettings
    teacher: keras.Model | None = None
    validation_data: Any = None
    loss: Any = None
    optimizer: keras.optimizers.Optimizer | str | None = None
    augment: Callable[..., Any] | None = None
    checkpoint_dir: str | os.PathLike[str] | None = None
    resume: bool = True
    tensorboard_dir: str | os.PathLike[str] | None = None
    verbose: int = 0
    tell: Tell = lambda line: None


@dataclasses.dataclass(frozen=True)
class Helper:
    """Something that takes part in a run.

    Attributes:
        make: `(the model that is trained, steps of an epoch) -> a callback with a state of its own`.
        identity: what makes its state that of this run.
    """

    make: Callable[[keras.Model, int], Companion]
    identity: Mapping[str, Any]


def run(order: Order, helper: Helper | None = None) -> FinetuneResult:
    """Trains a copy of the model.

    Raises:
        TrainingError, ModelError, FileError, KeyboardInterrupt: as `finetune`.
    """
    chosen = order.settings
    if order.tensorboard_dir is not None and importlib.util.find_spec("tensorboard") is None:
        raise TrainingError("tensorboard_dir needs the package tensorboard. Install it: pip install tensorboard.")
    given = modern(order.model)
    keras_graph.require_functional(given)
    told = modern(order.teacher) if order.teacher is not None else None
    if told is not None:
        _require_alike(given, told)
    data = prepared(order.train_data, chosen.batch_size, chosen.seed, order.augment)
    steps = num_steps(data)
    student = _training_copy(given, chosen)
    used = fresh(order.optimizer) if order.optimizer is not None else half_cosine_sgd(chosen, steps, student)
    identity = _identity(chosen, steps, used, given, told)
    identity |= {"loss": _named(order.loss if order.loss is not None else given), "training data": fingerprint(data)}
    identity |= dict(helper.identity) if helper else {}
    trained = _compiled(student, told, used, order.loss, chosen)
    companion = helper.make(student, steps) if helper else None
    file = _checkpoint_file(order.checkpoint_dir)
    recorder = Recorder(student, data, file, identity, order.tell, chosen, companion)
    recorder.begin(trained, order.resume)
    try:
        with asked_to_stop(recorder.stop):
            _fit(trained, data, order, recorder)
        interrupted = recorder.stopped  # after the last batch of all
    except KeyboardInterrupt:
        if not recorder.history:
            raise
        interrupted = True
    return _result(given, student, recorder, interrupted, chosen)


def _require_alike(model: keras.Model, teacher: keras.Model) -> None:
    keras_graph.require_functional(teacher)
    for what in ("inputs", "outputs"):
        mine, its = ([tuple(x.shape[1:]) for x in getattr(m, what)] for m in (model, teacher))
        if mine != its:
            raise TrainingError(
                f"The {what} of teacher '{teacher.name}' have shapes {its}, those of '{model.name}' {mine}; they must "
                "be the same. Give the model that was pruned."
            )


def _training_copy(model: keras.Model, settings: FinetuneSettings) -> keras.Model:
    """In mixed precision where asked, but for the layers that make the outputs; with seeds of its own."""
    last = {id(maker) for maker in keras_graph.makers(model)}
    config = {
        path: {"dtype": settings.policy}
        for path, layer in keras_graph.layers_by_path(model).items()
        if settings.policy and getattr(layer, "dtype_policy", None) == keras.DTypePolicy("float32")
        if id(layer) not in last
    }
    copy = duplicate(model, config)
    weights = {id(v) for v in copy.weights}
    for number, state in enumerate(v for v in copy.variables if id(v) not in weights):
        state.assign([settings.seed, number])
    return copy


def _identity(
    settings: FinetuneSettings, steps: int, optimizer: Any, model: keras.Model, teacher: keras.Model | None
) -> dict[str, Any]:
    """What makes a checkpoint that of this run."""
    return {
        **dataclasses.asdict(settings),
        "steps of an epoch": steps,
        "optimizer": {"class": type(optimizer).__name__, **_without_name(optimizer.get_config())},
        "weights of the model": checkpoint.digest(model),
        "weights of the teacher": checkpoint.digest(teacher),
    }


def _named(loss: Any) -> str:
    """Of the losses that are asked for, or that a model was compiled with."""
    if isinstance(loss, keras.Model):
        loss = keras_graph.compile_settings(loss).get("loss") if loss.compiled else None
    return ", ".join(names_of(loss))


def _without_name(config: dict[str, Any]) -> dict[str, Any]:
    """Keras numbers optimizers as they are made."""
    return {key: value for key, value in config.items() if key != "name"}


def _compiled(
    student: keras.Model, teacher: keras.Model | None, optimizer: Any, loss: Any, settings: FinetuneSettings
) -> keras.Model:
    """What `fit` is called on: the student, or its graph with the teacher beside it."""
    arguments = compile_arguments(student, loss)
    trained = student
    if teacher is not None and settings.distillation_weight:
        weight, temperature = settings.distillation_weight, settings.temperature
        trained = Distilled(student, duplicate(teacher), arguments["loss"], weight, temperature)
    if uses_float16(student):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    # On CPUs TensorFlow's XLA convolves at a quarter of the speed, one thread, ResNet-20.
    slow = keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu")
    trained.compile(optimizer, **arguments, jit_compile=False if slow else "auto")
    return trained


def _checkpoint_file(folder: str | os.PathLike[str] | None) -> Path | None:
    if folder is None:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    check_writable(Path(folder) / _CHECKPOINT)
    return Path(folder) / _CHECKPOINT


def _fit(trained: keras.Model, data: Any, order: Order, recorder: Recorder) -> None:
    done, settings = recorder.num_epochs, order.settings
    if done >= settings.epochs:
        return
    callbacks: list[Any] = [*([recorder.companion] if recorder.companion else []), recorder]
    if order.tensorboard_dir is not None:
        callbacks.append(keras.callbacks.TensorBoard(os.fspath(order.tensorboard_dir), write_graph=False))
    in_batches = not isinstance(order.validation_data, (tuple, list))
    trained.fit(
        **arguments_of_fit(data, done, settings.epochs),
        validation_data=order.validation_data,
        validation_batch_size=None if in_batches else settings.batch_size,
        initial_epoch=done,
        epochs=settings.epochs,
        callbacks=callbacks,
        verbose=order.verbose,
    )


def _result(
    model: keras.Model, student: keras.Model, recorder: Recorder, interrupted: bool, settings: FinetuneSettings
) -> FinetuneResult:
    best = interrupted or settings.keep == "best"
    checkpoint.assign(student.variables, recorder.best if best else recorder.variables)
    finished = duplicate(model)
    finished.set_weights(student.get_weights())
    history = {name: tuple(values) for name, values in recorder.history.items()}
    monitor, _ = monitored(history)
    values = history[monitor] if monitor else None
    return FinetuneResult(
        model=finished,
        history=history,
        monitor=monitor,
        last=values[-1] if values else None,
        best=values[recorder.best_epoch - 1] if values else None,
        best_epoch=recorder.best_epoch,
        interrupted=interrupted,
    )
