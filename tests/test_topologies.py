"""Networks nobody here drew: every constructor of keras.applications and of two other zoos passes from end to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.applications import convnext

import keras_qcqp
from keras_qcqp.coupling import couple
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from
from tests.benchmarks import topology_row, topology_table, zoos

ROOT = Path(__file__).resolve().parents[1]
L = keras.layers
APPLICATIONS = list(zoos.ZOOS["keras"].find())


def scaled(side: int = 8) -> keras.Model:
    """image -> conv -> [conv gelu conv scale drop] + -> pool -> dense, with the layers that only ConvNeXt has."""
    x = image = keras.Input((side, side, 3), name="image")
    x = L.Conv2D(8, 3, name="stem")(x)
    y = L.Conv2D(16, 3, padding="same", activation="gelu", name="wide")(x)
    y = L.Conv2D(8, 1, name="narrow")(y)
    y = convnext.LayerScale(1e-6, 8, name="scale")(y)
    y = convnext.StochasticDepth(0.2, name="drop")(y)
    x = L.GlobalAveragePooling2D(name="pool")(L.Add(name="sum")([x, y]))
    return keras.Model(image, L.Dense(5, name="head")(x))


@pytest.fixture
def tiny_zoo(monkeypatch):
    """A zoo of one network, for rows in no time."""
    monkeypatch.setitem(zoos.ZOOS, "keras", zoos.Zoo("keras", lambda: {"scaled": scaled}, range(2, 9)))


def test_every_constructor_of_keras_applications_is_found():
    assert set(APPLICATIONS) == {name for name in dir(keras.applications) if name[0].isupper()}


def test_layers_of_convnext_are_followed():
    model = scaled()
    coupling = couple(read(model))
    assert coupling.frozen == ()
    assert [m.size for m in coupling.masks if not m.frozen] == [8, 16]
    keep = tuple(np.full(m.size, m.frozen) | (np.arange(m.size) % 3 == 1) for m in coupling.masks)
    smaller = keras_qcqp.rebuild(model, plan_from(coupling, keep))
    scale = smaller.get_layer("scale")
    assert scale.projection_dim == smaller.get_layer("narrow").filters == 3
    np.testing.assert_array_equal(scale.get_weights()[0], model.get_layer("scale").get_weights()[0][[1, 4, 7]])


def test_row_of_a_small_network(tiny_zoo):
    row = topology_row.row_of("keras", "scaled")
    assert row["failures"] == row["theirs"] == {}
    assert (row["side"], row["num_layers"], row["round_trip"]) == (3, 4, True)  # a 3 x 3 kernel needs as much
    assert row["full"] == 27 * 8 + 72 * 16 + 16 * 8 + 8 * 5
    assert row["prunable"] == 1 and row["lowest"] == (27 + 9 + 1 + 5) / row["full"]
    assert row["kept"] <= 0.5 and row["law"] < 1e-6 < 1e-3 < row["effect"]


@pytest.mark.parametrize("residue", ["everything", "nothing"])
def test_a_broken_law_is_a_failure(tiny_zoo, monkeypatch, residue):
    """Held against the wrong reference, or against one whose masks change nothing."""
    monkeypatch.setattr(topology_row, "_try_both", lambda *arguments: None)  # files take seconds
    if residue == "everything":
        monkeypatch.setattr(keras_qcqp, "masked", lambda model, plan: model)
        expected = "relative error"
    else:
        monkeypatch.setattr(topology_row, "_difference", lambda got, wanted: 1e-9)
        expected = "says little"
    assert expected in topology_row.row_of("keras", "scaled")["failures"]["law"]


def test_what_the_unpruned_model_cannot_do_either_is_not_our_failure(tiny_zoo, monkeypatch):
    def convert(model, recipe):
        raise ValueError("no such operator")

    monkeypatch.setattr(topology_row.tflite_tools, "convert", convert, raising=False)
    row = topology_row.row_of("keras", "scaled")
    assert row["failures"] == {}
    assert row["theirs"] == {"tflite": "ValueError: no such operator"}


def test_a_model_that_cannot_be_built_says_why(monkeypatch):
    monkeypatch.setitem(zoos.ZOOS, "keras", zoos.Zoo("keras", lambda: {"scaled": scaled}, (1, 2)))
    row = topology_row.row_of("keras", "scaled")
    assert row["theirs"]["build"].startswith("ValueError: cannot be built, at 1 ValueError: ")


def test_gaps_are_listed_by_the_models_they_concern():
    rows = [
        {"model": "a", "failures": {}, "reasons": {"Odd: no rule": 3}},
        {"model": "b", "failures": {"law": "relative error 1"}, "reasons": {"Odd: no rule": 1}},
    ]
    assert topology_table.gaps(rows) == [
        "2 models: frozen Odd: no rule (a, b)",
        "1 models: failed law: relative error 1 (b)",
    ]


def test_shaking_leaves_no_constant_weight():
    model = scaled()
    topology_row.shake(model)
    for value in model.get_weights():
        assert np.ptp(value) > 0


@keras.saving.register_keras_serializable("topologies")
class Numbered(L.ReLU):
    """Adds to the name it is given, as blocks of some zoos do."""

    def __init__(self, name=None, **config):
        super().__init__(name=f"{name}_0", **config)


def test_layers_that_add_to_their_names_keep_them():
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, L.Dense(2, name="head")(Numbered(name="odd")(L.Conv2D(4, 3, name="conv")(image))))
    coupling = couple(read(model))
    everything = plan_from(coupling, tuple(np.ones(m.size, bool) for m in coupling.masks))
    assert [x.name for x in keras_qcqp.rebuild(model, everything).layers[1:]] == ["conv", "odd_0", "head"]


def test_calibrated_networks_see_their_inputs():
    """Without it the depthwise convolutions of this one leave nothing of an image but its batch norms' shifts."""
    model = keras.applications.MobileNetV2((32, 32, 3), weights=None, classifier_activation=None)
    topology_row.shake(model)
    momentum = model.get_layer("bn_Conv1").momentum
    topology_row.calibrate(model)
    first, second = (topology_row.outputs(model, topology_row.inputs(model, seed))[0] for seed in (1, 2))
    assert np.abs(first - second).max() > 0.1 * np.abs(first).max()
    assert model.get_layer("bn_Conv1").momentum == momentum


@pytest.mark.parametrize("name", ["MobileNetV3Small"])
def test_networks_of_keras_applications(name):
    require_passed(topology_row.row_of("keras", name, time_limit_s=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_all_networks_of_keras_applications(name):
    require_passed(topology_table.row_of("keras", name, 0.5, 10, 1800))


def require_passed(row: topology_table.Row) -> None:
    assert row["failures"] == row["theirs"] == {}
    assert row["uncounted"] == {}
    assert row["lowest"] <= 0.1
    assert row["kept"] <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("zoo", [zoo for zoo in zoos.ZOOS if zoo != "keras"])
def test_other_zoos(zoo):
    """The law holds wherever their models can be built; how much of them can go is for the benchmark to tell."""
    if not zoos.ZOOS[zoo].installed:
        pytest.skip(f"no '{zoos.ZOOS[zoo].package}'; install the extra 'zoo'")
    names = topology_table.names(zoo)
    assert len(names) >= 25
    rows = [topology_table.row_of(zoo, name, 0.5, 10, 1800) for name in names]
    assert {row["model"]: row["failures"] for row in rows if row["failures"]} == {}
    assert sum("law" in row for row in rows) >= 25


def test_the_benchmark_makes_a_table(tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text('[{"model": "a", "failures": {}, "theirs": {"tflite": "no"}, "prunable": 0.5, "law": 1e-7}]')
    command = [sys.executable, "-m", "tests.benchmarks.topologies", "--models=", f"--output={rows}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("| a "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["a", "-", "50.0", *"-" * 6, "1e-07", "-", "-", "(tflite)"]
    assert "1 models: fails unpruned too, tflite: no (a)" in process.stdout
