"""Milliseconds as a hard limit: what is promised over masks is what the converted file is predicted to take."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path

import keras
import networks
import numpy as np
import pytest
from networks import NETWORKS, shake
from selections import random_keep
from staircase import Steps

import keras_qcqp
import tflite_tools
from keras_qcqp import Budget, BudgetError, InfeasibleError, LatencyLimit, couple, prune_main, read, rebuild, violations
from keras_qcqp.limits.latency import as_resource, by_layer
from keras_qcqp.limits.meter import Meter
from keras_qcqp.plan import plan_from
from keras_qcqp.problem import counts_of
from tflite_tools import FitOptions, fit_latency
from tflite_tools.latency.flat_graph import read_graph
from tflite_tools.latency.geometry import geometries

QUICK = FitOptions(num_calibration=1, num_held_out=0)
KINDS = (("chain", "float32"), ("residual", "int8"), ("inverted_residual", "int8"), ("sequential", "float32"))


class Fine(Steps):
    """Small steps, for small networks."""

    name = "fine"

    def cost(self, given: int, made: int) -> float:
        return 0.0001 + 0.001 * (-(-made // 4)) * (1 + -(-given // 2))


class Slow(Steps):
    """Another device, for which inputs matter more."""

    name = "slow"

    def cost(self, given: int, made: int) -> float:
        return 0.001 + 0.002 * given * (1 + -(-made // 4))


def converted(model: keras.Model, recipe: str) -> bytes:
    random = np.random.default_rng(0)
    samples = [random.normal(size=(8, *x.shape[1:])).astype("float32") for x in model.inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tflite_tools.RepresentativeDataWarning)
        return tflite_tools.convert(model, recipe, samples if recipe == "int8" else None)


def named(name: str) -> keras.Model:
    keras.backend.clear_session()
    return shake(NETWORKS[name]())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """(network, recipe) -> its latency file on the device of `tests/staircase.py`, each made once."""
    folder = tmp_path_factory.mktemp("latency")

    @functools.cache
    def fit(name: str, recipe: str = "float32", source: type[Steps] = Fine) -> str:
        path = folder / f"{name}_{recipe}_{source.name}.json"
        fit_latency(converted(named(name), recipe), source(), QUICK).save(path)
        return str(path)

    return fit


@pytest.mark.parametrize(("name", "recipe"), KINDS)
def test_the_promise_is_the_prediction_for_the_converted_model(fitted, name, recipe):
    """The law of latencies: over masks, over the layers of the rebuilt model, and from its file alone."""
    model, limit = named(name), LatencyLimit(fitted(name, recipe), fraction=0.5)
    coupling, file = couple(read(model)), tflite_tools.LatencyModel.load(limit.path)
    resource = as_resource(coupling, limit)
    assert resource.usage([m.size for m in coupling.masks]) == pytest.approx(file.measured_ms * 1e6, abs=99)
    keep = random_keep(coupling, 5)
    smaller = rebuild(model, plan_from(coupling, keep))
    promised = resource.usage(counts_of(keep))
    uses = geometries(read_graph(converted(smaller, recipe)))[1]
    assert promised == pytest.approx(1e6 * file.predict([use.widths for use in uses]), abs=len(uses) + 1)
    budget = Budget(latency_ms=limit)
    assert Meter().usage(couple(read(smaller)), budget)[limit.key] == promised
    assert sum(by_layer(coupling, limit, coupling.alive(keep)).values()) == promised - resource.constant + _fixed(
        coupling, limit
    )


def _fixed(coupling, limit: LatencyLimit) -> int:
    """What operators without free widths cost, which a resource counts as constant."""
    return as_resource(coupling, limit).constant - limit.load().constant


@pytest.mark.parametrize("name", ["residual", "inverted_residual"])
def test_pruned_to_milliseconds(fitted, name):
    model, path = named(name), fitted(name, "int8")
    before = tflite_tools.LatencyModel.load(path).measured_ms
    result = keras_qcqp.prune(model, {"latency_ms": LatencyLimit(path, ms=0.8 * before)}, time_limit_s=2)
    key = f"latency_ns[{Path(path).name}]"
    assert violations(result.problem, result.solution.keep) == []
    assert result.solution.usage[key] <= 0.8e6 * before
    row = next(row for row in result.report.budgets if row.resource == key)
    assert row.after == result.solution.usage[key] and row.limit in (int(0.8e6 * before), round(0.8e6 * before))
    assert f"Pruned '{model.name}' to latency_ms=" in str(result.report)
    # Steps are free: no mask that the limit holds could be a step wider, and whole steps are filled.
    assert result.solution.gap < 0.2


def test_two_devices_and_macs_at_once(fitted):
    model = named("residual")
    fast, slow = fitted("residual"), fitted("residual", source=Slow)
    budget = Budget(macs=0.8, latency_ms=[LatencyLimit(fast, fraction=0.8), LatencyLimit(slow, fraction=0.7)])
    result = keras_qcqp.prune(model, budget, time_limit_s=2)
    assert violations(result.problem, result.solution.keep) == []
    assert len(result.problem.limits) == 3
    with pytest.raises(BudgetError, match=r"Two latency limits are called 'latency_ns\["):
        Budget(latency_ms=[LatencyLimit(fast, fraction=0.8), LatencyLimit(fast, fraction=0.7)])


def test_a_latency_limit_keeps_more_than_macs_of_the_same_latency(fitted):
    """The point of it all: what fills up a step costs nothing."""
    model, path = named("residual"), fitted("residual")
    by_macs = keras_qcqp.prune(model, {"macs": 0.6}, time_limit_s=2)
    limit = LatencyLimit(path, fraction=1.0)
    taken = Meter().usage(couple(read(by_macs.model)), Budget(latency_ms=limit))[limit.key]
    by_time = keras_qcqp.prune(model, {"latency_ms": LatencyLimit(path, ms=taken / 1e6)}, time_limit_s=2)
    assert by_time.solution.usage[limit.key] <= taken
    assert by_time.solution.objective > by_macs.solution.objective


def test_a_branch_that_is_taken_out_costs_nothing(fitted):
    model, path = named("residual_stage"), fitted("residual_stage")
    result = keras_qcqp.prune(
        model, {"latency_ms": LatencyLimit(path, fraction=0.45)}, widths={"min_keep": 0}, time_limit_s=2
    )
    assert "taken out" in result.report.solution
    assert len(converted(result.model, "float32")) > 0
    assert violations(result.problem, result.solution.keep) == []


def test_limits_as_text():
    limit = LatencyLimit.of("4.0@phone.json")
    assert limit == LatencyLimit("phone.json", ms=4.0) and str(limit) == "latency_ms=4@phone.json"
    assert LatencyLimit.of("50%@phone.json") == LatencyLimit("phone.json", fraction=0.5)
    budget = Budget.of("macs=0.5,latency_ms=50%@a.json,latency_ms=2@b/c.json")
    assert budget == Budget.of({"macs": 0.5, "latency_ms": ["50%@a.json", LatencyLimit(Path("b/c.json"), ms=2)]})
    assert Budget.of(str(budget)) == budget
    assert [x.key for x in budget.latencies] == ["latency_ns[a.json]", "latency_ns[c.json]"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LatencyLimit("a.json"),
            "A latency limit is either ms or a fraction, got None and None. Write Latency",
        ),
        (lambda: LatencyLimit("a.json", ms=0), "ms of a latency limit must be above 0 and at most inf, got 0. Write"),
        (
            lambda: LatencyLimit("a.json", fraction=2),
            "fraction of a latency limit must be above 0 and at most 1, got 2.",
        ),
        (lambda: Budget(latency_ms=4), "Cannot read the latency limit 4. Write 4.0@latency.json or 50%@latency.json"),
        (lambda: Budget.of("latency_ms=4"), "Cannot read the latency limit '4'. Write 4.0@latency.json or 50%@lat"),
        (lambda: LatencyLimit("none.json", ms=1).load(), "Cannot read the latency file 'none.json': No such file or"),
        (
            lambda: Budget.of({"layers": {"a*": {"latency_ms": 1}}}),
            "Budget a*:latency_ms: 'latency_ms' is not a sum over layers. Limit macs, flops",
        ),
    ],
)
def test_limits_that_make_no_sense_are_refused(make, message):
    with pytest.raises(BudgetError) as caught:
        make()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: JSONDecodeError"),
        ("{}", "has format None, expected 'tflite_tools.latency/1'. Make it with tflite_fit_latency."),
        ('{"format": "tflite_tools.latency/1"}', "is damaged: KeyError('rows'). Make it with tflite_fit_latency."),
    ],
)
def test_damaged_files_are_refused(tmp_path, text, message):
    (tmp_path / "latency.json").write_text(text)
    with pytest.raises(BudgetError) as caught:
        LatencyLimit(str(tmp_path / "latency.json"), ms=1).load()
    assert message in str(caught.value)


def test_what_cannot_be_told_is_refused(fitted, tmp_path):
    path = fitted("residual")
    with pytest.raises(
        BudgetError, match="was made for another network .* Convert this one and run tflite_fit_latency"
    ):
        as_resource(couple(read(named("chain"))), LatencyLimit(path, ms=1))
    with pytest.raises(BudgetError, match="Latency budgets need residual='tied'"):
        keras_qcqp.prune(named("residual"), {"latency_ms": LatencyLimit(path, fraction=0.5)}, residual="union")
    with pytest.raises(BudgetError, match="depends on 3 sets of channels that are kept independently"):
        as_resource(couple(read(named("dense_block"))), LatencyLimit(fitted("dense_block"), ms=1))
    stored = json.loads(Path(path).read_text())
    deeper = {**stored, "ops": [*stored["ops"], *stored["ops"]]}
    (tmp_path / "deeper.json").write_text(json.dumps(deeper))
    with pytest.raises(BudgetError, match="made for another network .* this one has .* operators"):
        as_resource(couple(read(named("residual"))), LatencyLimit(str(tmp_path / "deeper.json"), ms=1))
    for op in stored["ops"]:
        op[3] = op[3] and op[3] - 1
    (tmp_path / "narrow.json").write_text(json.dumps(stored))
    with pytest.raises(BudgetError, match="wide, and was measured up to"):
        as_resource(couple(read(named("residual"))), LatencyLimit(str(tmp_path / "narrow.json"), ms=1))


def test_limits_out_of_reach_and_limits_that_are_met(fitted):
    model, path = named("residual"), fitted("residual")
    with pytest.raises(InfeasibleError, match=r"latency_ns\[.* ns asked, but the smallest reachable value is"):
        keras_qcqp.prune(model, {"latency_ms": LatencyLimit(path, ms=1e-5)})
    with pytest.raises(BudgetError, match=r"Budget latency_ms=9@.* is met already: the network takes 0\."):
        keras_qcqp.prune(model, {"latency_ms": LatencyLimit(path, ms=9)})


def test_in_steps_with_training_between(fitted):
    model, path = named("residual"), fitted("residual")
    random = np.random.default_rng(0)
    shape = model.input_shape[1:]
    data = random.normal(size=(32, *shape)).astype("float32"), np.arange(32) % model.output_shape[-1]
    model.compile("sgd", "sparse_categorical_crossentropy")
    limit = LatencyLimit(path, fraction=0.7)
    options = {"data": None, "time_limit_s": 2}
    result = keras_qcqp.prune_and_finetune(
        model, {"latency_ms": limit}, data, steps=2, epochs=1, prune_options=options, distill=False
    )
    used = [step.usage[limit.key] for step in result.steps]
    assert used[-1] <= result.steps[-1].limits[limit.key] < used[0] <= result.steps[0].limits[limit.key]


def test_on_the_command_line(fitted, tmp_path, capfd):
    named("residual").save(tmp_path / "in.keras")
    limit = f"latency_ms=70%@{fitted('residual')}"
    arguments = [f"--model={tmp_path}/in.keras", f"--budget={limit}", f"--output={tmp_path}/out.keras"]
    assert prune_main.main(["prune_main", *arguments, "--time_limit_s=3"]) == 0
    assert f"Pruned 'residual' to {limit}" in capfd.readouterr().out
    assert networks.outputs(keras.models.load_model(tmp_path / "out.keras"), networks.images(named("residual")))
