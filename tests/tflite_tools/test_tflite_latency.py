"""Latency models: pieces run at other widths, forms find staircases, fits can be resumed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from staircase import Steps

from tflite_tools import FitOptions, LatencyModel, ProfileError, fit_latency
from tflite_tools.latency.axes import axes_of
from tflite_tools.latency.design import plan_points
from tflite_tools.latency.flat_graph import read_graph, write_graph
from tflite_tools.latency.forms import Form, choose, fit_all, mean_error, quality
from tflite_tools.latency.geometry import geometries
from tflite_tools.latency.networks import Resizable

MODELS = ("tiny_int8", "tiny_f32", "grouped_transposed_int8", "conv3x3_in32_out17_int8", "two_inputs_f32")
QUICK = FitOptions(num_calibration=2, num_held_out=4)  # fake devices do not look at the time


def run(data: bytes) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.invoke()


@pytest.mark.parametrize("name", MODELS)
def test_every_piece_runs_at_other_widths(fixture_model, name):
    rows, uses = geometries(read_graph(fixture_model(name)))
    assert len(uses) == len(read_graph(fixture_model(name)).ops)
    for row in rows:
        points = plan_points(row, seed=1)
        for widths in (*points.grid[:2], points.grid[-1], *points.held_out[:2]):
            data = row.model(widths)
            run(data)
            if widths[1] is not None:
                graph = read_graph(data)
                assert graph.tensors[graph.outputs[0]].shape[-1] == widths[1]


def test_a_piece_at_its_own_widths_computes_what_the_network_does(fixture_model):
    """The first convolution of the network, against the network with its operators behind it left out."""
    from ai_edge_litert.interpreter import Interpreter

    graph = read_graph(fixture_model("tiny_int8"))
    (row, *_), (use, *_) = geometries(graph)
    outputs = []
    for data in (row.model(use.widths), write_graph(graph.single(0), {})):
        interpreter = Interpreter(model_content=data)
        interpreter.allocate_tensors()
        (x,) = interpreter.get_input_details()
        values = np.random.default_rng(0).integers(-128, 127, x["shape"]).astype(np.int8)
        interpreter.set_tensor(x["index"], values)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    assert np.array_equal(*outputs) and len(np.unique(outputs[0])) > 9


@pytest.mark.parametrize("name", ["tiny_int8", "tiny_f32"])
@pytest.mark.parametrize("seed", range(3))
def test_whole_networks_run_at_random_widths(fixture_model, name, seed):
    network = Resizable(read_graph(fixture_model(name)))
    chosen = network.random(seed)
    assert chosen.keys() == network.sizes.keys() != set()
    data, widths = network.model(chosen)
    run(data)
    graph = read_graph(data)
    assert [(a.given, a.made) for a in (axes_of(graph, op) for op in graph.ops)] == list(widths)


def test_whole_networks_at_full_width_are_the_network(fixture_model):
    graph = read_graph(fixture_model("tiny_int8"))
    network = Resizable(graph)
    _, widths = network.model(network.sizes)
    assert widths == tuple(use.widths for use in geometries(graph)[1])


@pytest.fixture(scope="module")
def fitted(fixture_model):
    """A fit of the int8 network, and what was measured for it."""
    source = Steps()
    return fit_latency(fixture_model("tiny_int8"), source, QUICK), source.asked


def test_a_staircase_is_found_and_whole_networks_are_predicted(fitted):
    model, _ = fitted
    convolutions = [row for row in model.rows if row.kind == "CONV_2D" and row.spans[0][0] < row.spans[0][1]]
    assert {row.chosen for row in convolutions} == {"stepped"}
    assert {row.forms["stepped"].steps for row in convolutions} <= {(4, 8)}
    assert max(row.errors["stepped"] for row in convolutions) < 0.5 < max(r.errors["quadratic"] for r in convolutions)
    assert model.predict() == pytest.approx(model.measured_ms)
    assert model.whole["chosen"].mean_percent < 1 < model.whole["quadratic"].mean_percent
    assert model.whole["chosen"].num == 4 and model.recipe == "int8"
    assert "held-out networks of random widths, chosen" in str(model) and "stepped" in str(model)


def test_every_multiple_is_measured_where_no_formula_fits(fixture_model):
    source = Steps()
    model = fit_latency(fixture_model("tiny_int8"), source, FitOptions(multiple=8, num_calibration=0, num_held_out=0))
    row = next(row for row in model.rows if row.kind == "CONV_2D" and row.spans == ((1, 32), (1, 32)))
    assert {(a, b) for a, b, _, held in row.samples if not held} == {
        (a, b) for a in range(8, 33, 8) for b in range(8, 33, 8)
    }
    table = row.forms["table"]
    for given_, made, cost, _ in row.samples:
        assert table.at(int(given_), int(made)) == pytest.approx(cost)
        assert row.at((int(given_) - 3, int(made) - 7)) == pytest.approx(row.at((int(given_), int(made))))
    assert "quadratic" not in row.forms and "that were fitted, all multiples" in str(model)


@pytest.mark.parametrize("name", ["tiny_dynamic", "tiny_float16", "tiny_int16x8"])
def test_other_number_formats_are_refused(fixture_model, name):
    with pytest.raises(ProfileError, match="float32 and of full int8 files; this one holds"):
        fit_latency(fixture_model(name), Steps(), FitOptions(num_calibration=0, num_held_out=0))


def test_saved_and_loaded_it_predicts_the_same(fitted, tmp_path):
    model, _ = fitted
    again = LatencyModel.load(model.save(tmp_path / "latency.json"))
    half = [tuple(w and max(1, w // 2) for w in op.widths) for op in model.ops]
    assert again.predict(half) == model.predict(half) < model.predict() == again.predict()
    assert again.to_json() == model.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "The latency file is no JSON"),
        ('{"format": "x"}', "The latency file has format 'x', expected 'tflite_tools.latency/1'. Fit again."),
        ('{"format": "tflite_tools.latency/1"}', "The latency file is damaged: KeyError('ops'). Fit again."),
    ],
)
def test_damaged_files_are_refused(text, message):
    with pytest.raises(ProfileError) as caught:
        LatencyModel.from_json(text)
    assert str(caught.value).startswith(message)


def test_an_interrupted_fit_goes_on_where_it_was(fixture_model, fitted, tmp_path):
    path, journal = fixture_model("tiny_int8"), str(tmp_path / "samples.json")
    with pytest.raises(KeyboardInterrupt):
        fit_latency(path, Steps(patience=5), QUICK, resume=journal)
    rest = Steps()
    resumed = fit_latency(path, rest, QUICK, resume=journal)
    whole, asked = fitted
    assert resumed.to_json().partition('"seconds"')[0] == whole.to_json().partition('"seconds"')[0]
    assert 0 < len(rest.asked) < len(asked)
    assert set(json.loads((tmp_path / "samples.json").read_text())["costs"]) == set(asked)
    with pytest.raises(ProfileError, match="belongs to another fit: its options differs. Give another file"):
        fit_latency(path, Steps(), FitOptions(seed=1), resume=journal)


def test_a_file_that_is_no_journal_is_refused(fixture_model, tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ProfileError, match="holds no measurements that could be resumed"):
        fit_latency(fixture_model("tiny_int8"), Steps(), QUICK, resume=str(tmp_path / "x.json"))


def test_the_host_is_measured(fixture_model):
    model = fit_latency(fixture_model("conv3x3_in32_out17_int8"), "host", FitOptions(seconds=0.2, num_held_out=2))
    assert model.device == "host" and not model.deterministic
    assert model.measured_ms > 0 and model.environment["cpu"]


@given(
    steps=st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 4, 8, 16])),
    coefficients=st.tuples(*[st.floats(0.1, 10)] * 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_forms_recover_what_they_can_express(steps, coefficients, seed):
    truth = Form("stepped", steps, coefficients)
    random = np.random.default_rng(seed)
    axis = random.permutation(np.arange(1, 65))[:7]
    grid = np.array([(a, b) for a in axis for b in axis], float)
    samples = np.c_[grid, truth.at(grid[:, 0].astype(int), grid[:, 1].astype(int))]
    held = random.integers(int(axis.min()), int(axis.max()) + 1, (20, 2)).astype(float)
    held = np.c_[held, truth.at(held[:, 0].astype(int), held[:, 1].astype(int))]
    forms = fit_all(samples, samples, (True, True))
    assert mean_error(forms["stepped"], samples) < 1e-3
    for form in forms.values():
        assert min(form.coefficients, default=0) >= 0
        again = Form.from_dict(json.loads(json.dumps(form.to_dict())))
        assert np.array_equal(again.at(np.arange(70), 5), form.at(np.arange(70), 5))
    assert np.allclose(
        forms["table"].at(samples[:, 0].astype(int), samples[:, 1].astype(int)), samples[:, 2], rtol=0.05
    )
    chosen = forms[choose(forms, held)]
    assert mean_error(chosen, held) <= 1.1 * min(mean_error(f, held) for f in forms.values()) + 0.001


def test_quality_by_hand():
    found = quality([1.0, 2.2, 3.0], [1.0, 2.0, 4.0])
    assert (found.mean_percent, found.worst_percent) == (pytest.approx(35 / 3), pytest.approx(25))
    assert found.spearman == pytest.approx(1) and found.r2 == pytest.approx(1 - 1.04 / (42 / 9))
    assert quality([3.0, 2.0, 2.0], [1.0, 2.0, 3.0]).spearman == pytest.approx(-np.sqrt(3) / 2)


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"num_threads": 0}, {"multiple": 0}, {"num_held_out": -1}])
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ProfileError, match="makes no sense"):
        FitOptions(**wrong)
