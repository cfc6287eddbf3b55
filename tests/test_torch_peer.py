"""Torch-Pruning's selections come over whole: same network, same channels, same multiply-accumulates."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_qcqp import coupling, graph, importance, keras_graph, plan, rebuilder
from keras_qcqp.build import build_problem
from keras_qcqp.importance import evidence
from keras_qcqp.limits.budget import Budget
from keras_qcqp.limits.widths import Widths
from keras_qcqp.problem import evaluate, violations
from tests.benchmarks import peer_selection as peer


@pytest.fixture(scope="module")
def coupled():
    x = keras.Input((4, 4, 2))
    a, b = (keras.layers.Conv2D(3, 3, padding="same", name=name)(x) for name in "ab")
    c = keras.layers.Conv2D(4, 1, name="c")(keras.layers.Add()([a, b]))
    model = keras.Model(x, keras.layers.Dense(2, name="head")(keras.layers.GlobalAveragePooling2D()(c)))
    return coupling.couple(graph.read(model))


def test_kept_channels_become_masks(coupled):
    keep = peer.peer_keep(coupled, {"a": [0, 2], "b": [0, 2], "c": [1]})
    chosen = plan.plan_from(coupled, keep)
    assert {name: chosen[name].out_index for name in "abc"} == {"a": ((0, 2),), "b": ((0, 2),), "c": ((1,),)}
    assert chosen["head"].in_index == ((1,),) and chosen["head"].out_index == ((0, 1),)


def test_layers_that_are_coupled_must_agree(coupled):
    with pytest.raises(ValueError, match="'a' was to keep"):
        peer.peer_keep(coupled, {"a": [0, 2], "b": [0, 1]})


def test_a_python_without_torch_is_refused_by_name(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n")
    python.chmod(0o755)
    for missing in (str(python), str(tmp_path / "nowhere")):
        with pytest.raises(SystemExit, match=r"Install the extra 'peers'.*KERAS_QCQP_TORCH_PYTHON"):
            peer.require_peer(missing)


def test_the_selection_rebuilt_here_is_the_network_pruned_there(shared_file):
    try:
        peer.require_peer(peer.peer_python())
    except SystemExit as missing:
        pytest.skip(f"Torch-Pruning: {missing}")
    path = shared_file("models/resnet20_cifar10.keras")
    shared_file("cifar10/train_1.npz")
    (found,) = peer.peer_selections(path, "group_l1", [0.7])
    model = keras.models.load_model(path, compile=False)
    coupled = coupling.couple(graph.read(model))
    scores = importance.criterion("magnitude")(evidence.Evidence(coupled, keras_graph.weight_values(model)))
    problem, original = build_problem(coupled, scores, Budget(macs=0.7), Widths(min_keep=1))
    keep = peer.peer_keep(coupled, found["kept"])
    assert violations(problem, keep) == []
    assert evaluate(problem, keep)[1]["macs"] == found["macs"] > 0.98 * problem.limits["macs"]
    assert original["macs"] == found["macs_before"]
    smaller = rebuilder.rebuild(model, plan.plan_from(coupled, keep))
    images = peer.calibration()[0][: peer.CHECKED]
    np.testing.assert_allclose(smaller.predict(images, verbose=0), found["outputs"], atol=1e-3)
