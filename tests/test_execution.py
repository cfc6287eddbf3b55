"""Single tensors of a network, in any order, against Keras' own model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import test_recurrent
from networks import dense_block, images, outputs, shake, two_by_two

from keras_qcqp.execution import Execution, Network

L = keras.layers


def dropping() -> keras.Model:
    """What is random in training only, a constant argument, and two readers of an input."""
    x = given = keras.Input((6,))
    x = L.GaussianNoise(1.0)(L.Dropout(0.5)(L.Dense(5)(x)))
    return keras.Model(given, L.Concatenate()([keras.ops.clip(x, -0.5, 0.5), given]))


def augmenting() -> keras.Model:
    """Image layers take it for training unless they are told."""
    x = given = keras.Input((6, 6, 3))
    x = L.RandomRotation(0.3, name="turn")(L.RandomFlip(name="flip")(x))
    x = L.TimeDistributed(L.Dropout(0.5), name="each")(x)
    return keras.Model(given, L.Dropout(0.5, name="drop")(x, training=True))


@pytest.mark.parametrize("make", [dense_block, two_by_two, test_recurrent.masked_sequence, dropping, augmenting])
def test_the_outputs_are_those_of_the_model(make):
    model = shake(make())
    network, arrays = Network(model), images(model)
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    run = Execution(network, arrays)
    for found, wanted in zip(map(run.array, network.graph.outputs), outputs(model, arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    for old, variable in zip(before, model.variables, strict=True):  # seeds among them
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))


def test_any_tensor_can_be_asked_for_in_any_order_and_again():
    model = shake(dense_block())
    network, (image,) = Network(model), images(model)
    tensors = {node.name: node.outputs[0] for node in network.graph.nodes}
    wanted = {layer.name: keras.Model(model.inputs, layer.output).predict_on_batch(image) for layer in model.layers}
    run = Execution(network, [image])
    names = [*tensors, *reversed(tensors)]
    names += np.random.default_rng(0).permutation(names).tolist()
    for name in names:
        np.testing.assert_allclose(run.array(tensors[name]), wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_all_readers_have_seen_is_forgotten_and_computed_with_the_weights_of_now():
    model = shake(dense_block())
    network, (image,) = Network(model), images(model)
    tensors = {node.name: node.outputs[0] for node in network.graph.nodes}
    run = Execution(network, [image])
    before = run.array(tensors["join1"])
    model.get_layer("x0").bias.assign_add(np.ones(6))
    np.testing.assert_array_equal(run.array(tensors["join1"]), before)  # computed when the weights were others
    run.array(tensors["join2"])
    assert np.abs(run.array(tensors["x0"]) - before[..., :6] - 1).max() < 1e-5


def test_ancestors():
    network = Network(dense_block())
    (tensor,) = network.nodes["join1"].outputs
    assert network.ancestors([tensor]) == {"image", "x0", "act1", "x1", "join1"}
