"""Quantization-aware training: the rewriting alone, and all of it where tensorflow-model-optimization is installed.

Set TFLITE_QAT_PYTHON to an interpreter that has it (extra `qat`).
"""

from __future__ import annotations

import importlib.util
import os

import keras
import numpy as np
import pytest

import tflite_tools
from keras_qcqp import prune
from tflite_tools import QatError, QatSettings
from tflite_tools.aware.blueprint import Blueprint, read
from tflite_tools.aware.launch import QatResult, _over
from tflite_tools.aware.rewriting import OUTPUT_ONLY, rewrite

L = keras.layers
needs_tfmot = pytest.mark.skipif(
    not os.environ.get("TFLITE_QAT_PYTHON") and importlib.util.find_spec("tensorflow_model_optimization") is None,
    reason="tensorflow-model-optimization is not installed; set TFLITE_QAT_PYTHON to an interpreter that has it",
)


def of(*layers, size=8):
    """image -> conv -> the given layers."""
    image = keras.Input((size, size, 3), name="image")
    x = L.Conv2D(4, 3, name="conv")(image)
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x, name="net")


def everything():
    """A nested model, a gate, a lone batch norm, an average, hard activations, a shared layer, two outputs."""
    keras.utils.set_random_seed(3)
    image = keras.Input((12, 12, 3), name="image")
    x = L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1, 2, 3])(L.Rescaling(0.5, offset=0.1)(image))
    inner = keras.Input((12, 12, 3))
    stem = keras.Model(inner, L.Activation("hard_silu")(L.BatchNormalization()(L.Conv2D(8, 3)(inner))), name="stem")
    x = stem(x)
    x = L.BatchNormalization(name="lone")(L.MaxPooling2D()(x))
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(8, 1, activation="hard_sigmoid", name="gate")(L.Conv2D(4, 1, activation="swish")(gate))
    x = L.Multiply()([x, gate])
    shared = L.Conv2D(8, 3, padding="same", name="shared")
    x = L.Average()([shared(x), L.LeakyReLU(negative_slope=0.1)(shared(x)), L.PReLU(shared_axes=[1, 2])(x)])
    x = L.GlobalAveragePooling2D()(L.SeparableConv2D(8, 3)(x))
    model = keras.Model(image, [L.Dense(5, activation="softmax", name="head")(x), L.Dense(2)(x)], name="net")
    random = np.random.default_rng(0)
    for layer in (model.get_layer("lone"), stem.layers[2]):
        layer.set_weights([random.uniform(0.5, 1.5, 8) for _ in range(4)])
    return model


def test_rewriting_leaves_only_what_can_be_quantized(tmp_path):
    blueprint = rewrite(read(everything(), ["image"]))
    kinds = {layer.kind for layer in blueprint.layers.values()}
    assert not kinds & {"Rescaling", "Normalization", "Average", "Softmax"} and "HardSwish" in kinds
    assert {name.split("/")[0] for name in blueprint.layers} >= {"stem", "lone", "gate", "gate_hard_sigmoid"}
    assert [x.kind for x in blueprint.layers.values() if x.output_only and x.kind not in OUTPUT_ONLY] == []
    assert blueprint.layers["lone"].kind == "DepthwiseConv2D"
    made = set(blueprint.shapes)
    assert all(set(call.reads) <= made for call in blueprint.calls) and set(blueprint.outputs) <= made
    order = {call.makes: k for k, call in enumerate(blueprint.calls)}
    assert all(order.get(read, -1) < k for k, call in enumerate(blueprint.calls) for read in call.reads)
    blueprint.save(tmp_path)
    again = Blueprint.load(tmp_path)
    assert again.calls == blueprint.calls and again.shapes == blueprint.shapes and again.inputs == blueprint.inputs
    np.testing.assert_array_equal(again.layers["lone"].weights[0], blueprint.layers["lone"].weights[0])


def shared_gate():
    """A convolution with a swish and one with a hard sigmoid, each called twice."""
    keras.utils.set_random_seed(5)
    image = keras.Input((12, 12, 3), name="image")
    conv = L.Conv2D(3, 3, padding="same", activation="swish", name="conv")
    gate = L.Conv2D(3, 1, activation="hard_sigmoid", name="gate")
    x = conv(image)
    y = conv(x)
    return keras.Model(image, L.Add()([L.Multiply()([x, gate(y)]), L.Multiply()([y, gate(x)])]), name="net")


def test_activations_of_shared_layers_follow_every_call():
    calls = [call.layer for call in rewrite(read(shared_gate(), ["image"])).calls]
    parts = ("conv", "conv_silu", "gate", "gate_hard_sigmoid", "gate_hard_sigmoid_relu6", "gate_hard_sigmoid_sixth")
    assert [calls.count(name) for name in parts] == [2] * 6
    image = keras.Input((8, 8, 3))
    average = L.Average(name="mean")
    twice = keras.Model(image, average([image, average([image, L.ReLU()(image)])]))
    with pytest.raises(QatError, match="'mean' is an Average that is called more than once"):
        rewrite(read(twice, ["image"]))


def test_bytes_are_held_against_the_limits_of_pruning(small_cnn):
    data = tflite_tools.convert(small_cnn, "dynamic_int8")
    facts = tflite_tools.read_facts(data)
    assert _over(data, {"macs": 1, "tflite_bytes": len(data), "peak_bytes": facts.peak_bytes}) == ()
    assert _over(data, {"tflite_bytes": 10}) == (f"tflite_bytes {len(data):,}, limit 10",)
    assert "OVER THE LIMIT: peak_bytes" in str(QatResult(data, (), 0.0, _over(data, {"peak_bytes": 1})))


def test_teachers_with_other_inputs_are_refused(images, dictionary):
    with pytest.raises(QatError, match=r"teacher has inputs of shape \[\[8, 8, 3\]\], the model \[\[12, 12, 3\]\]"):
        tflite_tools.qat(of(size=12), images, teacher=of(size=8))
    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((4,), name="alpha")
    listed = keras.Model([zeta, alpha], L.Dense(3)(L.Add()([zeta, alpha])))
    with pytest.raises(QatError, match="build both with the same order of inputs"):
        tflite_tools.qat(dictionary[0], dictionary[1], teacher=listed)


@needs_tfmot
def test_shared_layers_and_a_held_out_tail(images):
    model = shared_gate()
    odd = np.concatenate([images, np.full((10, 12, 12, 3), 50, "float32")])
    made = tflite_tools.qat(model, odd, teacher=model, settings=QatSettings(epochs=0, num_validation=10))
    assert made.difference < 1e-4
    assert tflite_tools.read_facts(made.data).inputs[0].scale == pytest.approx(2 / 255, rel=0.05)
    assert tflite_tools.compare(model, made.data, images).outputs[0].snr_db > 10  # one range for both calls clips


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: of(L.ELU(), L.LayerNormalization(name="ln")), r"cannot quantize 'elu\w*' \(ELU\), 'ln' \(LayerNorm"),
        (lambda: of(L.ReLU(max_value=3, name="r")), "'r' is a ReLU with top=3"),
        (lambda: of(L.Flatten(), L.BatchNormalization(name="b")), "'b': BatchNormalization that .* for images only"),
        (lambda: of(L.Lambda(lambda x: x[..., :2], name="cut")), r"cannot quantize 'cut' \(Lambda\)"),
        (lambda: keras.Model(x := keras.Input((4, 4, 3)), keras.ops.flip(x)), "the operation ops.Flip, which tf_keras"),
    ],
)
def test_refusals_before_anything_is_started(model, message):
    with pytest.raises(QatError, match=message):
        tflite_tools.qat(model(), np.zeros((8, 8, 8, 3), "float32"), python="/nowhere/python")


def test_data_settings_and_interpreters_that_make_no_sense(images):
    model = of(size=12)
    with pytest.raises(QatError, match="epochs is -1"):
        QatSettings(epochs=-1)
    with pytest.raises(QatError, match="distillation_weight is 2"):
        QatSettings(distillation_weight=2)
    with pytest.raises(QatError, match="labels of shape .2. for 80 samples"):
        tflite_tools.qat(model, images, [1, 2])
    with pytest.raises(QatError, match="leaves nothing of 80 samples"):
        tflite_tools.qat(model, images, settings=QatSettings(num_validation=80))
    with pytest.raises(QatError, match="Cannot start the interpreter '/nowhere/python': .* Make an environment for it"):
        tflite_tools.qat(model, images, python="/nowhere/python")


def test_a_relative_interpreter_is_found_and_told_the_backend(images, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(
        '#!/bin/sh\necho "{\\"error\\": \\"reached $KERAS_BACKEND\\"}" > "$3/result.json"\n'
    )
    (tmp_path / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QatError, match="reached tensorflow"):
        tflite_tools.qat(of(size=12), images, python="./python")


def test_a_dictionary_of_inputs_is_read_in_the_order_of_the_model(dictionary):
    model, _ = dictionary
    made = read(model, [tensor.name for tensor in model.inputs])
    assert [name for _, name in made.inputs] == ["alpha", "zeta"]
    assert made.calls[0].reads == tuple(number for number, _ in made.inputs)


@needs_tfmot
def test_a_dictionary_of_inputs_is_trained(dictionary):
    model, arrays = dictionary
    made = tflite_tools.qat(model, arrays, settings=QatSettings(epochs=0))
    assert made.difference < 1e-4
    assert tflite_tools.compare(model, made.data, arrays).outputs[0].snr_db > 15


@needs_tfmot
def test_everything_is_carried_over_trained_and_all_integer(images):
    model = everything()
    lines: list[str] = []
    made = tflite_tools.qat(
        model, images, settings=QatSettings(epochs=1, batch_size=20, learning_rate=1e-4), progress=lines.append
    )
    assert made.difference < 1e-4 and len(made.history) == 2 and len(lines) == 2
    facts = tflite_tools.read_facts(made.data)
    assert not facts.float_ops and facts.inputs[0].shape == (1, 12, 12, 3)
    found = tflite_tools.predict(made.data, images)
    expected = [np.asarray(x) for x in model(images)]
    for name, right in zip(sorted(found), expected, strict=True):
        assert np.abs(found[name] - right).mean() < 0.3 * max(np.abs(right).mean(), 0.2)


@needs_tfmot
def test_pruned_widths_survive(small_cnn, images):
    result = prune(small_cnn, {"macs": 0.6}, time_limit_s=1)
    labels = np.asarray(small_cnn(images)).argmax(1)
    settings = QatSettings(epochs=2, batch_size=16, num_validation=16, learning_rate=0.01)
    made = tflite_tools.qat(result, images, labels, teacher=small_cnn, settings=settings)
    after, ptq = (tflite_tools.read_facts(x) for x in (made.data, tflite_tools.convert(result, "int8", images)))
    assert abs(after.weight_bytes - ptq.weight_bytes) < 0.1 * ptq.weight_bytes
    assert after.arena_bytes <= ptq.arena_bytes
    assert [set(row) for row in made.history] == [{"epoch", "val_accuracy"}] + [{"epoch", "loss", "val_accuracy"}] * 2


@needs_tfmot
@pytest.mark.slow
def test_a_trained_network_stays_right(shared_file):
    from benchmarks.shared_data import SAMPLES

    model = keras.models.load_model(shared_file("models/mlperf_kws_dscnn.keras"), compile=False)
    samples = SAMPLES["mlperf_kws_dscnn"](1000)
    made = tflite_tools.qat(model, samples.inputs[:800], samples.labels[:800], settings=QatSettings(epochs=1))
    found = next(iter(tflite_tools.predict(made.data, samples.inputs).values()))
    assert np.mean(found.argmax(-1) == samples.labels) > 0.90
