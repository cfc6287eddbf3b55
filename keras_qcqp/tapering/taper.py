"""Pruning during training: the resources shrink little by little, and channels close whose value is below the price."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_qcqp.build import build_problem
from keras_qcqp.coupling import couple
from keras_qcqp.errors import TrainingError
from keras_qcqp.finetuning.losses import compile_arguments
from keras_qcqp.finetuning.running import Helper, Order, Tell, run
from keras_qcqp.finetuning.settings import FinetuneSettings
from keras_qcqp.graph import read
from keras_qcqp.legacy import modern
from keras_qcqp.limits.aligning import aligned
from keras_qcqp.limits.allowed import freeze
from keras_qcqp.limits.budget import Budget
from keras_qcqp.limits.costs import CostModel
from keras_qcqp.limits.meter import Meter
from keras_qcqp.limits.widths import Widths
from keras_qcqp.losses import loss_of
from keras_qcqp.samples import collect
from keras_qcqp.tapering.journey import Journey
from keras_qcqp.tapering.journey import TaperPoint as TaperPoint
from keras_qcqp.tapering.journey import TaperResult as TaperResult
from keras_qcqp.tapering.motion import Motion, Plot
from keras_qcqp.tapering.settings import TaperSettings

POINTS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def taper(
    model: keras.Model,
    train_data: Any,
    budget: Budget | Mapping[str, Any] | str,
    *,
    points: Sequence[float] = POINTS,
    widths: Widths | Mapping[str, Any] | None = None,
    recipe: str = "float32",
    costs: Sequence[CostModel] = (),
    tapering: Mapping[str, Any] | None = None,
    teacher: keras.Model | None = None,
    validation_data: Any = None,
    loss: Any = None,
    optimizer: keras.optimizers.Optimizer | str | None = None,
    augment: Callable[..., Any] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,
    tensorboard_dir: str | os.PathLike[str] | None = None,
    verbose: int = 0,
    progress: Tell | None = None,
    **settings: Any,
) -> TaperResult:
    """Trains a copy of a model while the resources that it may use shrink to a budget; the model is not changed.

    Every coupled channel gets a gate, which multiplies the kernels that read it. Gates move apart from the weights,
    every few batches, by a step down the loss that keeps the resources exactly at what they may be; the Lagrange
    multiplier is the price of compute, and channels whose value is below it close. How fast the resources shrink
    depends on the loss. When the channels that are left fit, the exact solver chooses whole channels within the budget
    and the width rules, and the rest of the run trains what is left. (See `tapering.gates` for the source.)

    Args:
        model: a Functional or built Sequential model, trained.
        train_data: as for `finetune`, with labels.
        budget: as for `prune`; every limit is hard.
        points: shares of the first limited resource at which the network is kept on the way.
        widths, recipe, costs: as for `prune`.
        tapering: fields of `keras_qcqp.tapering.settings.TaperSettings`: arrive, every, speed, tolerance, batch_size,
            num_samples.
        teacher, validation_data, loss, optimizer, augment, checkpoint_dir, resume, tensorboard_dir, verbose, progress:
            as for `finetune`; with a `checkpoint_dir` the networks on the way are files there, `point_70.keras` and so
            on, and a run that was killed goes on after its last epoch, gates, price and curve included.
        settings: as for `finetune`: epochs, learning_rate, ...

    Raises:
        BudgetError, ModelError, TrainingError, DataError, FileError: as `prune` and `finetune`.
        KeyboardInterrupt: Ctrl-C before the budget was reached; finished epochs are kept.
    """
    chosen, how = FinetuneSettings.of(settings), TaperSettings.of(tapering or {})
    meter = Meter(recipe, tuple(costs))
    asked, rules = Budget.of(budget, meter.names), Widths.of(widths or {})
    tell = progress or (lambda line: None)
    given = modern(model)
    coupling = freeze(couple(read(given), together=rules.together), rules)
    problem, original = build_problem(coupling, (), asked, aligned(coupling, rules, asked), meter)
    shares = tuple(sorted({float(p) for p in points}, reverse=True))
    if any(not 0 < p < 1 for p in shares):
        raise TrainingError(f"points must be shares between 0 and 1, got {list(points)}.")
    samples = collect(train_data, given, how.num_samples, chosen.seed)
    if samples.labels is None:
        raise TrainingError("Tapering trains by labels: give train_data=(x, y) or batches of these.")
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    journey = Journey(given, coupling, problem, folder, chosen.seed, tell)
    targets = np.array([problem.limits[r.name] / max(original[r.name], 1) for r in problem.limited])

    def make(student: keras.Model, steps: int) -> Motion:
        student_loss = loss_of(student, loss if loss is not None else compile_arguments(student, None)["loss"])
        journey.student = student
        acts = journey.choose, journey.note, tell
        plot = Plot(coupling, problem, targets, samples, student_loss, shares, *acts, chosen.seed)
        journey.motion = Motion(plot, student, round(steps * chosen.epochs * how.arrive), how)
        return journey.motion

    identity = {"tapering": dataclasses.asdict(how), "limits": dict(problem.limits), "points": list(shares)}
    order = Order(
        given,
        train_data,
        chosen,
        teacher=teacher,
        validation_data=validation_data,
        loss=loss,
        optimizer=optimizer,
        augment=augment,
        checkpoint_dir=checkpoint_dir,
        resume=resume,
        tensorboard_dir=tensorboard_dir,
        verbose=verbose,
        tell=tell,
    )
    trained = run(order, Helper(make, identity))
    if trained.interrupted:
        raise KeyboardInterrupt
    return journey.result(trained, shares)
