"""Recovery without training: what a pruned network can win back from examples alone, in closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras

from keras_qcqp.errors import DataError, PlanError, did_you_mean
from keras_qcqp.execution import Network
from keras_qcqp.keras_graph import weight_values
from keras_qcqp.legacy import modern
from keras_qcqp.plan import Plan
from keras_qcqp.rebuilder import duplicate, rebuild
from keras_qcqp.recovery import batch_norm, least_squares
from keras_qcqp.recovery.pair import Pair, Settings
from keras_qcqp.samples import NUM_SAMPLES, Samples, collect

Tell = Callable[[str], None]
Step = Callable[[Pair, Samples, Settings, Tell], list[str]]


def _bias(pair: Pair, samples: Samples, settings: Settings, tell: Tell) -> list[str]:
    return least_squares.fit(pair, samples, dataclasses.replace(settings, kernels=False), tell)


def _batch_norm(pair: Pair, samples: Samples, settings: Settings, tell: Tell) -> list[str]:
    return batch_norm.reestimate(pair.pruned, samples, settings.batch_size, tell)


STEPS: Mapping[str, Step] = {"least_squares": least_squares.fit, "bias": _bias, "batch_norm": _batch_norm}
"""Name -> what is done, in this order when several are asked for."""

DEFAULT = ("least_squares",)


@dataclasses.dataclass(frozen=True)
class Recovered:
    """A pruned model after recovery.

    Attributes:
        model: a new model; the one that was given is not changed.
        steps: what was done.
        left: a line for each layer that stays as it was, and why.
    """

    model: keras.Model
    steps: tuple[str, ...]
    left: tuple[str, ...]


def recover(
    original: keras.Model,
    pruned: keras.Model,
    plan: Plan,
    data: Any,
    *,
    steps: Collection[str] = DEFAULT,
    num_samples: int = NUM_SAMPLES,
    ridge: float = 1e-3,
    seed: int = 0,
    progress: Tell | None = None,
) -> Recovered:
    """Makes up for dropped channels without any training, in closed form, from examples without labels.

    Args:
        pruned: `rebuild(original, plan)`, or what became of it.
        data: examples, see `keras_qcqp.samples.collect`; labels are not looked at.
        steps: any of "least_squares" (every Dense and convolution kernel is fitted anew, constants included),
            "bias" (only constants: the mean of what was dropped goes into biases and batch norms), "batch_norm"
            (statistics of batch norms over the examples). Several are done in this order. After least squares the old
            statistics still hold, and re-estimating them costs accuracy.
        num_samples: how many examples to use; more are better and take longer in proportion.
        ridge: how strongly fits are pulled towards the weights as they are; in units of the mean squared input.
        progress: called with a line of text for each layer.

    Raises:
        DataError: the examples do not fit the model, or a step is unknown.
        ModelError: a model cannot be read.
        PlanError: the plan is not the original's, or does not make the pruned model of it.
    """
    steps = require_steps(steps)
    if not ridge >= 0:
        raise DataError(f"ridge must be a number >= 0, got {ridge!r}.")
    original, tell = modern(original), progress or (lambda line: None)
    samples = collect(data, original, num_samples, seed)
    model = duplicate(modern(pruned))
    _require_of_plan(original, model, plan)
    return mend(Pair(Network(original), Network(model), plan), samples, steps, Settings(ridge=ridge, seed=seed), tell)


def mend(pair: Pair, samples: Samples, steps: Collection[str], settings: Settings, tell: Tell) -> Recovered:
    """The same for networks that are known to fit the plan; the pruned one is changed."""
    left = dict[str, None]()
    for step in steps:
        left |= dict.fromkeys(STEPS[step](pair, samples, settings, tell))
    return Recovered(pair.pruned.model, tuple(steps), tuple(left))


def _require_of_plan(original: keras.Model, pruned: keras.Model, plan: Plan) -> None:
    """Raises PlanError unless the second model has the shapes that the plan gives the first."""
    wanted, got = (
        {path: [v.shape for v in named.values()] for path, named in weight_values(m).items()}
        for m in (rebuild(original, plan), pruned)
    )
    for path in (*wanted, *got):
        if wanted.get(path) != got.get(path):
            raise PlanError(
                f"The pruned model is not what the plan makes of '{original.name}': the weights of layer '{path}' have "
                f"shapes {got.get(path)}, the plan gives {wanted.get(path)}. Give rebuild(original, plan)."
            )


def require_steps(steps: Collection[str]) -> tuple[str, ...]:
    """The steps in the order in which they are done.

    Raises:
        DataError: one is unknown, or they are no names.
    """
    if not isinstance(steps, (str, Collection)):
        raise DataError(f"Recovery steps are names, () for none, got {steps!r}. Known: {', '.join(STEPS)}.")
    asked = [steps] if isinstance(steps, str) else steps
    for step in asked:
        if step not in STEPS:
            raise DataError(f"Unknown recovery step '{step}'. {did_you_mean(step, STEPS)}")
    return tuple(step for step in STEPS if step in asked)
