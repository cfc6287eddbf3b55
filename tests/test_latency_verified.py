"""Widths that suit a device, and limits that are measured after rebuilding. No test asserts a wall time."""

from __future__ import annotations

import keras
import pytest
from networks import residual, shake
from staircase import Steps
from test_latency_budget import Fine, converted

import keras_qcqp
from keras_qcqp import BudgetError, InfeasibleError, LatencyLimit, QcqpError, Widths
from keras_qcqp.limits.width_text import parse_rule
from keras_qcqp.verifying import find_measure
from tflite_tools import FitOptions, fit_latency
from tflite_tools.errors import ProfileError
from tflite_tools.latency.verifying import measure


class Slower(Fine):
    """The device of the file on a bad day."""

    def cost(self, given: int, made: int) -> float:
        return 1.1 * super().cost(given, made) + 0.0002 * made


def wide() -> keras.Model:
    """image -> conv 32 -> conv 64 -> conv 16 -> mean -> 4"""
    keras.backend.clear_session()
    x = image = keras.Input((8, 8, 3), name="image")
    for name, width in (("a", 32), ("b", 64), ("c", 16)):
        x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
    pooled = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return shake(keras.Model(image, keras.layers.Dense(4, name="head")(pooled), name="wide"))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of `wide` on a device of 4 inputs and 8 outputs at once."""
    file = tmp_path_factory.mktemp("wide") / "latency.json"
    fit_latency(converted(wide(), "float32"), Steps(), FitOptions(num_calibration=1, num_held_out=0)).save(file)
    return str(file)


def widths_of(model: keras.Model) -> list[int]:
    return [model.get_layer(name).filters for name in "abc"]


@pytest.mark.parametrize("how", ["latency", "macs"])
def test_widths_are_those_of_the_device(path, how):
    budget = {"latency_ms": LatencyLimit(path, fraction=0.7)} if how == "latency" else {"macs": 0.5}
    rule = "auto" if how == "latency" else f"auto@{path}"
    result = keras_qcqp.prune(wide(), budget, widths={"width_multiple": rule}, time_limit_s=2)
    assert all(width % 8 == 0 for width in widths_of(result.model)) and sum(widths_of(result.model)) < 112


def test_widths_of_a_device_that_is_not_named_are_refused():
    with pytest.raises(BudgetError) as caught:
        keras_qcqp.prune(wide(), {"macs": 0.5}, widths={"width_multiple": "auto"})
    assert str(caught.value) == (
        "width_multiple='auto' takes the steps of a latency budget, and there is none. Write 'auto@latency.json', or a "
        "number."
    )
    with pytest.raises(BudgetError, match="width_multiple must be an integer >= 1, got 'often'"):
        Widths(width_multiple="often")
    assert parse_rule("width_multiple", "auto@a.json") == "auto@a.json"
    with pytest.raises(BudgetError, match="min_keep: cannot read 'auto'"):
        parse_rule("min_keep", "auto")


@pytest.fixture(scope="module")
def residual_path(tmp_path_factory):
    file = tmp_path_factory.mktemp("residual") / "latency.json"
    model = shake(residual())
    fit_latency(converted(model, "int8"), Fine(), FitOptions(num_calibration=1, num_held_out=0)).save(file)
    return str(file)


def test_what_is_measured_meets_the_limit(residual_path):
    """The device turns out to be slower than its file says, and not evenly so."""
    model, limit, rounds = shake(residual()), LatencyLimit(residual_path, ms=0.075), []

    def slower(models, file):
        rounds.append(len(models))
        return measure(models, file, Slower())

    result = keras_qcqp.prune(model, {"latency_ms": limit}, verify=slower, time_limit_s=2)
    (found,) = result.latencies
    assert measure([result.model], residual_path, Slower())[0] == found.measured_ms <= 0.985 * found.limit_ms
    assert found.limit_ms == 0.075 and found.rounds == len(rounds) > 1 and found.predicted_ms < found.measured_ms
    assert str(found) in str(result.report)
    share = LatencyLimit(residual_path, fraction=0.7)
    result = keras_qcqp.prune(model, {"latency_ms": share}, verify=slower, time_limit_s=2)
    assert result.latencies[0].measured_ms <= 0.985 * 0.7 * result.latencies[0].before_ms


def test_a_device_that_never_meets_the_limit_ends_in_an_error(residual_path):
    with pytest.raises(InfeasibleError, match="Limits were lowered since more was measured:|after 6 rounds"):
        keras_qcqp.prune(
            shake(residual()),
            {"latency_ms": LatencyLimit(residual_path, ms=0.075)},
            verify=lambda models, file: [1.0 for _ in models],
            time_limit_s=1,
        )


def test_a_file_of_another_device_is_not_verified_here(residual_path):
    class Elsewhere(Fine):
        def environment(self) -> dict[str, str]:
            return {**super().environment(), "cpu": "another one"}

    with pytest.raises(ProfileError, match=r"was fitted elsewhere: cpu was .*, is another one\. Fit again here"):
        measure([], residual_path, Elsewhere())


def test_nothing_to_verify_is_refused(monkeypatch):
    with pytest.raises(BudgetError, match="verify measures latency budgets, and there is none"):
        keras_qcqp.prune(shake(residual()), {"macs": 0.5}, verify=measure)
    monkeypatch.setattr("keras_qcqp.verifying.metadata.entry_points", lambda group: ())
    with pytest.raises(QcqpError, match="verify=True needs something that measures"):
        find_measure(True)
    assert find_measure(False) is None and find_measure(measure) is measure
