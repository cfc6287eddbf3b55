"""Tapering: the constraint holds after each step, order does not depend on scales, runs resume, budgets are met."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, images, shake
from taper_networks import OPTIONS, QUICK, examples, network
from test_backends import require_installed

import keras_qcqp
from keras_qcqp import keras_graph, taper_main
from keras_qcqp.build import build_problem
from keras_qcqp.coupling import couple
from keras_qcqp.errors import TrainingError
from keras_qcqp.graph import read
from keras_qcqp.limits.budget import Budget
from keras_qcqp.problem import Resource
from keras_qcqp.tapering.gates import Gates
from keras_qcqp.tapering.reads import reads_of, scaled, slopes_of, weights_read
from keras_qcqp.tapering.schedule import Taper
from keras_qcqp.tapering.soft import Soft, presence, steepness
from keras_qcqp.tapering.taper import taper

L = keras.layers
TESTS = Path(__file__).parent


def chain_resource() -> Resource:
    """Of three masks of 6, 8 and 5 channels in a row."""
    return Resource("macs", "MACs", 10, {0: 30, 2: 7}, {(0, 1): 9, (1, 2): 4})


# Soft resources


def test_presence_is_concave_from_nothing_to_one():
    gates = np.linspace(0, 1, 11)
    assert presence(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert (np.diff(presence(gates), 2) < 0).all()
    np.testing.assert_allclose((presence(gates + 1e-6) - presence(gates)) / 1e-6, steepness(gates), rtol=1e-4)


def test_soft_shares_are_the_exact_ones_at_whole_counts_and_tables_never_fall():
    table = np.zeros((7, 9), np.int64)
    table[1:, 1:] = np.arange(6)[:, None] * 10 + np.arange(8) + 5
    table[3, 4] += 15  # a wider layer that is cheaper
    resource = Resource("ms", "us", 5, {1: 2}, {(0, 1): 3}, {(0, 1): table})
    soft = Soft.of([resource], (6, 8))
    full = resource.usage((6, 8))
    np.testing.assert_allclose(soft.shares((2, 3)), [resource.usage((2, 3)) / full])
    rising = [soft.shares((a, 4))[0] for a in np.linspace(0, 6, 25)]
    assert (np.diff(rising) >= -1e-12).all()
    plain = Soft.of([chain_resource()], (6, 8, 5))
    for counts in ((6, 8, 5), (1, 2, 3), (4, 8, 1)):
        assert plain.shares(counts)[0] == pytest.approx(
            chain_resource().usage(counts) / chain_resource().usage((6, 8, 5))
        )


def test_prices_are_what_a_channel_costs():
    soft, full = Soft.of([chain_resource()], (6, 8, 5)), chain_resource().usage((6, 8, 5))
    wanted = [(30 + 9 * 8) / full, (9 * 6 + 4 * 5) / full, (7 + 4 * 8) / full]
    np.testing.assert_allclose(soft.prices((6, 8, 5), 0), wanted)


# Gates


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 0.95))
def test_the_constraint_holds_after_each_step(seed, limit):
    random = np.random.default_rng(seed)
    gates = Gates.open(Soft.of([chain_resource()], (6, 8, 5)), (1, 2, 1), (True, True, True), 0.05)
    for level in np.linspace(1, limit, 15):
        gates.step([random.normal(size=n) for n in (6, 8, 5)], np.array([level]))
        assert gates.soft_shares()[0] <= level + 1e-9
        assert all(((v >= 0) & (v <= 1)).all() for v in gates.values)
        assert all(np.count_nonzero(v == 1) >= n for v, n in zip(gates.values, (1, 2, 1), strict=True))
    assert gates.soft_shares()[0] == pytest.approx(limit, abs=0.02) or gates.price == 0


def test_what_is_worth_least_goes_first_and_what_is_gone_stays():
    worth = [-np.arange(1.0, 7), -np.arange(1.0, 9), -np.arange(1.0, 6)]  # the loss falls with the gate
    gates = Gates.open(Soft.of([chain_resource()], (6, 8, 5)), (1, 1, 1), (True, True, False), 0.05)
    gone: set[tuple[int, int]] = set()
    for level in np.linspace(1, 0.3, 200):
        gates.step(worth, np.array([level]))
        now = {(m, c) for m, v in enumerate(gates.values) for c in np.flatnonzero(v == 0).tolist()}
        assert gone <= now
        gone = now
    assert (gates.values[2] == 1).all()  # not free
    for values in gates.values[:2]:
        assert (np.diff((values > 0).astype(int)) >= 0).all() and 0 < np.count_nonzero(values == 0) < len(values)


def test_no_step_without_need():
    gates = Gates.open(Soft.of([chain_resource()], (6, 8, 5)), (1, 1, 1), (True, True, True), 0.05)
    gates.step([np.zeros(6), np.zeros(8), np.zeros(5)], np.array([1.0]))
    assert gates.price == 0 and all((v == 1).all() for v in gates.values)


# Schedule


def test_the_taper_slows_down_while_the_loss_is_high_and_arrives_in_time():
    calm, rough = (Taper(np.array([0.25]), 100) for _ in range(2))
    for step in range(30):
        low, high = calm.advance(1.0), rough.advance(1.0 if step < 3 else 5.0)
    assert low[0] < high[0] < 1
    for _ in range(70):
        rough.advance(5.0)
    assert rough.level >= 1 and rough.limits()[0] <= 0.25 + 1e-9


# Reads


@pytest.mark.parametrize("name", ["chain", "residual", "inverted_residual"])
def test_a_gate_of_zero_is_the_masked_original(name):
    """Scaling what reads a channel by 0 is what the law calls dropping it."""
    model = shake(NETWORKS[name]())
    coupling = couple(read(model))
    reads, free = reads_of(coupling)
    random = np.random.default_rng(0)
    keep = [np.ones(m.size, bool) for m in coupling.masks]
    for mask, is_free in enumerate(free):
        if is_free:
            keep[mask] = random.random(len(keep[mask])) < 0.6
            keep[mask][0] = True
    assert any(free)
    plan = keras_qcqp.plan.plan_from(coupling, tuple(keep))
    weights = keras_graph.weight_values(model)
    chosen = {(a, b): weights[a][b] for a, b in weights_read(reads)}
    gated = keras_qcqp.rebuilder.duplicate(model)
    layers = keras_graph.layers_by_path(gated)
    for (layer, weight), values in scaled(reads, [k.astype(float) for k in keep], chosen).items():
        keras_graph.named_weights(layers[layer])[weight].assign(values)
    smaller = keras_qcqp.rebuild(model, plan)
    x = images(model)
    for a, b in zip(*([np.asarray(y) for y in keras.tree.flatten(m(x))] for m in (gated, smaller)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_slopes_are_derivatives_by_gates():
    model = shake(NETWORKS["chain"]())
    coupling = couple(read(model))
    reads, _ = reads_of(coupling)
    weights = keras_graph.weight_values(model)
    chosen = {(a, b): weights[a][b] for a, b in weights_read(reads)}
    gates = [np.full(m.size, 0.5) for m in coupling.masks]
    random = np.random.default_rng(1)
    gradients = {key: random.normal(size=v.shape) for key, v in chosen.items()}
    slopes = slopes_of(reads, gates, chosen, gradients)

    def linear(values):
        return sum(float((scaled(reads, [v / 0.5 for v in values], chosen)[k] * g).sum()) for k, g in gradients.items())

    mask = next(k for k, s in enumerate(slopes) if s.any())
    moved = [g.copy() for g in gates]
    moved[mask][0] += 0.25
    assert (linear(moved) - linear(gates)) / 0.25 == pytest.approx(slopes[mask][0], rel=1e-3)


# Runs


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras_qcqp.finetune(network(), examples(), epochs=3, learning_rate=0.05, batch_size=16).model


@pytest.fixture(scope="module")
def tapered(trained):
    return taper(trained, examples(), {"macs": 0.4, "params": 0.7}, tapering=QUICK, **OPTIONS)


def test_a_run_meets_every_budget_and_keeps_the_networks_on_the_way(trained, tapered):
    before, after = keras_qcqp.measure(trained), keras_qcqp.measure(tapered.model)
    assert after["macs"] <= 0.4 * before["macs"] and after["params"] <= 0.7 * before["params"]
    assert {name: after[name] for name in ("macs", "params")} == {n: tapered.usage[n] for n in ("macs", "params")}
    assert [p.point for p in tapered.points] == [0.7, 0.5]
    for point in tapered.points:
        share = keras_qcqp.measure(point.load())["macs"] / before["macs"]
        assert share <= point.point and share == pytest.approx(point.share, abs=1e-3)
    assert tapered.resources == ("macs", "params") and tapered.curve.shape[1] == 4
    assert (np.diff(tapered.curve[:, 0]) <= 1e-12).all()


def test_the_result_is_the_trained_network_with_gates_folded(trained, tapered):
    """The law: what the run trained, zeroed in its readers, is what the smaller model computes."""
    x, y = examples()
    whole = tapered.training.model
    np.testing.assert_allclose(whole.predict(x, verbose=0), tapered.model.predict(x, verbose=0), atol=1e-4)
    accuracy = np.mean(tapered.model.predict(x, verbose=0).argmax(-1) == y)
    assert accuracy > 0.6  # of four classes
    assert keras_qcqp.measure(whole) == keras_qcqp.measure(trained)


def test_killed_runs_go_on(trained, tapered, tmp_path):
    """The same curve, plan and weights, to the last bit, after an exception at the end of the second epoch."""
    told: list[str] = []

    def dies(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise RuntimeError("killed")

    budget = {"macs": 0.4, "params": 0.7}
    with pytest.raises(RuntimeError, match="killed"):
        taper(trained, examples(), budget, tapering=QUICK, **OPTIONS, checkpoint_dir=tmp_path, progress=dies)
    again = taper(trained, examples(), budget, tapering=QUICK, **OPTIONS, checkpoint_dir=tmp_path, progress=told.append)
    assert any("resumed after epoch 2" in line for line in told)
    assert again.plan == tapered.plan and np.array_equal(again.curve, tapered.curve)
    for a, b in zip(again.model.get_weights(), tapered.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.point for p in again.points] == [0.7, 0.5]
    with pytest.raises(TrainingError, match="belongs to another run: tapering was"):
        taper(trained, examples(), budget, tapering={**QUICK, "speed": 0.2}, **OPTIONS, checkpoint_dir=tmp_path)


def test_priority_does_not_depend_on_the_scale_of_layers(trained):
    """A layer 1000 times larger (behind it, ReLU and a reader 1000 times smaller): the same function, the same plan."""
    x = image = keras.Input((8, 8, 3), name="image")
    for k, width in enumerate((8, 12)):
        x = L.ReLU(name=f"relu{k}")(L.Conv2D(width, 3, padding="same", name=f"conv{k}")(x))
    plain = keras.Model(image, L.Dense(4, name="head")(L.GlobalAveragePooling2D(name="pool")(x)))
    plain = keras_qcqp.finetune(plain, examples(), epochs=2, learning_rate=0.05, batch_size=16).model
    other = keras_qcqp.rebuilder.duplicate(plain)
    for name, factor in (("conv0", 1000.0), ("conv1", 1 / 1000.0)):
        kernel, bias = plain.get_layer(name).get_weights()
        other.get_layer(name).set_weights([kernel * factor, bias * (factor if name == "conv0" else 1)])
    frozen = {"optimizer": keras.optimizers.SGD(0.0), "epochs": 1, "batch_size": 16}
    plans = [taper(m, examples(), {"macs": 0.5}, tapering=QUICK, **frozen).plan for m in (plain, other)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend):
    require_installed(backend)
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "KERAS_TORCH_DEVICE": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
    process = subprocess.run([sys.executable, TESTS / "taper_run.py"], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    told = json.loads(process.stdout.splitlines()[-1])
    assert told["backend"] == backend and told["share"] <= 0.5 and told["points"] == [0.7, 0.5]
    assert told["difference"] < 1e-3 and told["loss"][-1] < told["loss"][0]


def test_the_command_line(trained, tmp_path, capfd):
    trained.save(tmp_path / "net.keras")
    x, y = examples(96)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    files = [f"--{name}={tmp_path / file}" for name, file in (("model", "net.keras"), ("data", "data.npz"))]
    outputs = [f"--output={tmp_path}/small.keras", f"--curve_output={tmp_path}/curve.json"]
    more = [
        "--budget=macs=0.5",
        "--epochs=2",
        "--batch_size=16",
        "--points=0.7",
        "--speed=0.1",
        f"--checkpoint_dir={tmp_path}/run",
    ]
    assert taper_main.main(["taper_main", *files, *outputs, *more]) == 0
    output, errors = capfd.readouterr()
    assert output.startswith("finished 2 epochs: val_accuracy ") and "choosing whole channels" in errors
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert curve["columns"] == ["macs", "loss", "price"] and curve["curve"][-1][0] <= 0.7
    assert [p["point"] for p in curve["points"]] == [0.7] and (tmp_path / "run/point_70.keras").is_file()
    assert keras.models.load_model(tmp_path / "small.keras").count_params() < trained.count_params()
    assert taper_main.main(["taper_main", *files, *outputs, "--budget=macs=0.5", "--points=half"]) == 2
    assert "error: --points must be shares such as 0.75,0.5: could not convert" in capfd.readouterr().err


def test_bad_arguments_are_refused(trained):
    x, y = examples(32)
    with pytest.raises(TrainingError, match="Unknown setting 'sped' of tapering. Did you mean 'speed'"):
        taper(trained, (x, y), {"macs": 0.5}, tapering={"sped": 1})
    with pytest.raises(TrainingError, match="points must be shares between 0 and 1"):
        taper(trained, (x, y), {"macs": 0.5}, points=(1.5,))
    with pytest.raises(TrainingError, match="speed must be a number above 0 and up to 1"):
        taper(trained, (x, y), {"macs": 0.5}, tapering={"speed": 0})


def test_limits_of_a_problem_become_targets(trained):
    coupling = couple(read(trained))
    problem, original = build_problem(coupling, (), Budget.of({"macs": 0.5}))
    (limited,) = problem.limited
    assert limited.name == "macs" and problem.limits["macs"] == original["macs"] // 2
