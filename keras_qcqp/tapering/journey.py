"""What a tapering run leaves behind: the networks on the way, and the one at its end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.errors import FileError
from keras_qcqp.files import write_text
from keras_qcqp.finetuning.running import FinetuneResult, Tell
from keras_qcqp.graph import read
from keras_qcqp.model_io import save_model
from keras_qcqp.plan import Plan, plan_from
from keras_qcqp.problem import Keep, Problem, Solution, evaluate
from keras_qcqp.rebuilder import duplicate, rebuild
from keras_qcqp.solvers import solve
from keras_qcqp.tapering.motion import Motion
from keras_qcqp.transfer import transfer

_SEARCH_S = 20.0


@dataclasses.dataclass(frozen=True)
class TaperPoint:
    """The network as it was when its first resource passed a share: usable as it is, better after some training.

    Attributes:
        point: the share that was passed.
        share: what the channels that were left cost.
        loss: smoothed, on training examples.
        price: marginal loss per share of the resource.
        plan: which channels were left.
        model: rebuilt; None where it is in `file`.
        file: the saved model, where there is a `checkpoint_dir`.
    """

    point: float
    share: float
    loss: float
    price: float
    plan: Plan
    model: keras.Model | None
    file: Path | None

    def load(self) -> keras.Model:
        """The model, from the file if need be."""
        return self.model if self.model is not None else keras.models.load_model(self.file)


@dataclasses.dataclass(frozen=True)
class TaperResult:
    """What `taper` returns.

    Attributes:
        model: the smaller model, trained; it meets the budget.
        plan: which channels each layer keeps; `rebuild(original, plan)` has the same shapes, and older weights.
        usage: resource -> what the model costs, counted by the solver that rounded the gates to whole channels.
        curve: float64[steps, resources + 2]: share of each limited resource that the channels left cost, smoothed
            training loss, price.
        resources: names of the limited ones.
        points: the networks on the way, largest first.
        training: history of the run.
    """

    model: keras.Model
    plan: Plan
    usage: Mapping[str, int]
    curve: np.ndarray
    resources: tuple[str, ...]
    points: tuple[TaperPoint, ...]
    training: FinetuneResult

    def __str__(self) -> str:
        used = ", ".join(f"{name} {self.usage[name]:,}" for name in self.resources)
        return f"{self.training}; {used}"


@dataclasses.dataclass
class Journey:
    """What a tapering run leaves behind."""

    model: keras.Model
    coupling: Coupling
    problem: Problem
    folder: Path | None
    seed: int
    tell: Tell
    student: keras.Model | None = None
    motion: Motion | None = None
    points: dict[float, TaperPoint] = dataclasses.field(default_factory=dict)

    def choose(self, importance: Sequence[np.ndarray]) -> Solution:
        """The exact solver's selection."""
        linear = {k: values for k, values in enumerate(importance) if len(values)}
        return solve(dataclasses.replace(self.problem, linear=linear), _SEARCH_S, self.seed)

    def note(self, point: float, keep: Keep, numbers: Mapping[str, float]) -> None:
        """Rebuilds the network as it is now."""
        plan = self._plan(keep)
        assert self.student is not None
        smaller = self._smaller(self.student.get_weights(), plan)
        self.tell(f"{numbers['share']:.0%} of {self.problem.limited[0].name}, loss {numbers['loss']:.4g}")
        if self.folder is None:
            self.points[point] = TaperPoint(point, **numbers, plan=plan, model=smaller, file=None)
            return
        file = _file(self.folder, point)
        save_model(smaller, str(file))
        told = {"numbers": dict(numbers), "plan": json.loads(plan.to_json())}
        write_text(file.with_suffix(".json"), json.dumps(told))

    def _plan(self, keep: Keep) -> Plan:
        """Of the layers as they are, whatever the user tied together."""
        base = couple(read(self.model))
        return plan_from(base, transfer(keep, self.coupling, base))

    def _smaller(self, weights: Sequence[np.ndarray], plan: Plan) -> keras.Model:
        whole = duplicate(self.model)
        whole.set_weights(weights)
        return rebuild(whole, plan)

    def _passed(self, shares: Sequence[float]) -> tuple[TaperPoint, ...]:
        """All points of the run, those before a kill too."""
        assert self.motion is not None
        least = min((row[0] for row in self.motion.curve), default=1.0)
        if self.folder is not None:
            self.points = {p: _read_point(self.folder, p) for p in shares if least <= p}
        return tuple(self.points[p] for p in sorted(self.points, reverse=True))

    def result(self, trained: FinetuneResult, shares: Sequence[float]) -> TaperResult:
        """The model of the run's end without what was dropped."""
        assert self.motion is not None and self.motion.keep is not None
        plan = self._plan(self.motion.keep)
        return TaperResult(
            model=self._smaller(trained.model.get_weights(), plan),
            plan=plan,
            usage=evaluate(self.problem, self.motion.keep)[1],
            curve=np.asarray(self.motion.curve),
            resources=tuple(r.name for r in self.problem.limited),
            points=self._passed(shares),
            training=trained,
        )


def _file(folder: Path, point: float) -> Path:
    return folder / f"point_{100 * point:g}.keras"


def _read_point(folder: Path, point: float) -> TaperPoint:
    file = _file(folder, point)
    try:
        told = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        plan = Plan.from_json(json.dumps(told["plan"]))
        return TaperPoint(point, **told["numbers"], plan=plan, model=None, file=file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"'{file}' or its .json is missing or damaged ({error}). Run again with resume=False."
        ) from error
