"""Recurrent layers, their wrappers, embeddings and masks: who is coupled, what is frozen and why, and the law."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import images, outputs, shake
from selections import random_keep
from test_law import require_law
from test_rules import sizes

import keras_qcqp
from keras_qcqp.coupling import RESIDUALS, couple
from keras_qcqp.graph import read
from keras_qcqp.keras_graph import named_weights
from keras_qcqp.plan import plan_from

L = keras.layers
SEQUENCE = (5, 3)


def chain(*layers: keras.layers.Layer, shape: tuple[int, ...] = SEQUENCE, batch: int | None = None) -> keras.Model:
    """input -> layers -> head"""
    x = given = keras.Input(shape, batch_size=batch, name="sequence")
    for layer in layers:
        x = layer(x)
    heads = [L.Dense(2, name=f"head_{k}")(y) for k, y in enumerate(keras.tree.flatten(x))]
    return keras.Model(given, heads, name="chain")


def lstm_stack() -> keras.Model:
    return chain(
        L.LSTM(5, return_sequences=True, dropout=0.2, recurrent_dropout=0.1, name="a"),
        L.LSTM(4, go_backwards=True, return_sequences=True, use_bias=False, name="b"),
        L.LSTM(6, activation="relu", recurrent_activation="hard_sigmoid", unroll=True, name="c"),
    )


def grus() -> keras.Model:
    return chain(
        L.GRU(5, return_sequences=True, name="after"),
        L.GRU(4, return_sequences=True, reset_after=False, name="before"),
        L.SimpleRNN(6, return_sequences=True, name="simple"),
        L.GRU(4, use_bias=False, name="bare"),
    )


def residual_rnn() -> keras.Model:
    """A sum of two recurrent branches, and of what they read."""
    given = keras.Input(SEQUENCE)
    x = L.Dense(5, name="x")(given)
    a, b = L.LSTM(5, return_sequences=True, name="a")(x), L.GRU(5, return_sequences=True, name="b")(x)
    return keras.Model(given, L.Dense(2, name="head")(L.SimpleRNN(4, name="c")(L.Add(name="sum")([x, a, b]))))


def stacked_cells() -> keras.Model:
    """Cells of one name inside one layer, and a stack in both directions."""
    cells = [L.LSTMCell(4, name="one"), L.GRUCell(5, name="two"), L.SimpleRNNCell(6, name="one")]
    return chain(
        L.RNN(cells, return_sequences=True, name="r"),
        L.Bidirectional(
            L.RNN([L.GRUCell(4, name="in"), L.LSTMCell(5)], name="rnn", return_sequences=True), name="both"
        ),
        L.RNN(L.GRUCell(5, reset_after=False, name="last"), name="s"),
    )


def both_ways(merge: str | None) -> keras.Model:
    """One kind in both directions, and one with a backward layer of another kind."""
    given = keras.Input(SEQUENCE)
    y = L.Bidirectional(L.GRU(5, return_sequences=True), merge_mode=merge, name="y")(given)
    y = L.Concatenate(name="joined")(list(y)) if merge is None else y
    backward = L.LSTM(4, go_backwards=True, name="back")
    z = L.Bidirectional(L.SimpleRNN(4), merge_mode=merge, backward_layer=backward, name="z")(y)
    return keras.Model(given, [L.Dense(2, name=f"h{k}")(t) for k, t in enumerate(keras.tree.flatten(z))])


def both_with_states() -> keras.Model:
    """Names that begin alike; the states of one layer start the next."""
    given = keras.Input(SEQUENCE)
    x, *states = L.Bidirectional(L.LSTM(4, return_sequences=True, return_state=True, name="x"), name="x")(given)
    y = L.Bidirectional(L.LSTM(4), merge_mode="sum", name="y")(x, initial_state=states)
    return keras.Model(given, [L.Dense(2, name=f"h{k}")(t) for k, t in enumerate([y, *states])])


def video() -> keras.Model:
    """frames -> convolutions at every step -> ConvLSTM both ways -> ConvLSTM with states"""
    given = keras.Input((3, 6, 6, 2), name="frames")
    x = L.TimeDistributed(L.Conv2D(4, 3, padding="same"), name="conv")(given)
    x = L.TimeDistributed(L.BatchNormalization(), name="norm")(x)
    x = L.TimeDistributed(L.MaxPooling2D(2), name="pool")(x)
    x = L.ConvLSTM2D(5, 2, padding="same", return_sequences=True, name="memory")(x)
    x = L.Bidirectional(L.ConvLSTM2D(4, 2, return_sequences=True), name="both")(x)
    x, h, c = L.ConvLSTM2D(4, 2, strides=2, return_state=True, name="last")(x)
    return keras.Model(given, [L.Dense(2, name=f"h{k}")(L.Flatten(name=f"f{k}")(t)) for k, t in enumerate([x, h, c])])


def steps() -> keras.Model:
    """Wrappers around weights, around reshapes, around each other."""
    given = keras.Input((4, 6, 3), name="windows")
    x = L.TimeDistributed(L.SeparableConv1D(5, 2), name="separable")(given)
    x = L.TimeDistributed(L.Bidirectional(L.GRU(3, return_sequences=True)), name="inner")(x)
    x = L.TimeDistributed(L.SpectralNormalization(L.Conv1D(4, 2)), name="spectral")(x)
    x = L.TimeDistributed(L.Flatten(), name="flat")(x)
    x = L.TimeDistributed(L.Dense(6, activation="relu"), name="dense")(x)
    x = L.SpectralNormalization(L.Dense(5), name="norm")(x)
    return keras.Model(given, L.Dense(2, name="head")(L.LSTM(4, name="memory")(x)), name="steps")


def translator() -> keras.Model:
    """source -> encoder -> its states start the decoder, which reads the target"""
    source, target = keras.Input((5,), dtype="int32", name="source"), keras.Input((4,), dtype="int32", name="target")
    x = L.Embedding(7, 4, mask_zero=True, name="embed_source")(source)
    x, *states = L.LSTM(5, return_sequences=True, return_state=True, name="encoder")(x)
    y = L.Embedding(8, 4, mask_zero=True, name="embed_target")(target)
    y = L.BatchNormalization(name="norm")(y)
    y, h, _ = L.LSTM(5, return_sequences=True, return_state=True, name="decoder")(y, initial_state=states)
    z = L.Bidirectional(L.GRU(4), name="both")(x)
    pooled = L.GlobalAveragePooling1D(name="pool")(y)
    return keras.Model([source, target], [L.Dense(2, name=f"h{k}")(t) for k, t in enumerate([pooled, h, z])])


def stateful() -> keras.Model:
    return chain(
        L.GRU(4, stateful=True, return_sequences=True, name="a"),
        L.RNN([L.LSTMCell(4), L.LSTMCell(5)], stateful=True, return_sequences=True, return_state=True, name="b"),
        lambda given: L.Bidirectional(L.LSTM(5, stateful=True), name="c")(given[0]),
        batch=3,
    )


def masked_sequence() -> keras.Model:
    """The layers of a Sequential make their masks by operations that are called anew in each copy."""
    layers = [keras.Input((5,), dtype="int32"), L.Embedding(7, 6, mask_zero=True, name="embed")]
    layers += [L.Bidirectional(L.LSTM(4, return_sequences=True), name="both"), L.GRU(5, name="memory")]
    return keras.Sequential([*layers, L.Dense(2, name="head")], name="sentence")


NETWORKS = {
    "lstm_stack": (lstm_stack, {"a": 5, "b": 4, "c": 6}),
    "grus": (grus, {"after": 5, "before": 4, "simple": 6, "bare": 4}),
    "residual_rnn": (residual_rnn, {"x": 5, "c": 4}),
    "stacked_cells": (
        stacked_cells,
        {"r": 6, "r/one": 4, "r/two": 5, "both": 5, "both/forward_rnn/in": 4, "both/backward_rnn/in": 4, "s": 5},
    ),
    "both_concat": (lambda: both_ways("concat"), {"y": 5, "z": 4}),
    "both_sum": (lambda: both_ways("sum"), {"y": 5, "z": 4}),
    "both_mul": (lambda: both_ways("mul"), {"y": 5, "z": 4}),
    "both_ave": (lambda: both_ways("ave"), {"y": 5, "z": 4}),
    "both_none": (lambda: both_ways(None), {"y": 5, "z": 4}),
    "both_with_states": (both_with_states, {"x": 4}),
    "video": (video, {"conv": 4, "memory": 5, "both": 4, "last": 4}),
    "steps": (steps, {"separable": 5, "inner": 3, "spectral": 4, "dense": 6, "norm": 5, "memory": 4}),
    "translator": (translator, {"embed_source": 4, "embed_target": 4, "encoder": 5, "both": 4}),
    "stateful": (stateful, {"a": 4, "b": 5, "b/2": 4, "c": 5}),
    "masked_sequence": (masked_sequence, {"embed": 6, "both": 4, "memory": 5}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_coupled_masks_and_the_law(name):
    build, expected = NETWORKS[name]
    model = shake(build())
    coupling = couple(read(model), strict=True)
    assert sizes(coupling) == expected
    for seed, residual in enumerate(RESIDUALS):
        require_law(model, seed, residual)


@pytest.mark.parametrize("name", ["stacked_cells", "both_with_states", "steps", "stateful", "masked_sequence"])
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    """Both ways: what was rebuilt can be loaded, and what was loaded has the same weights and channels to rebuild."""
    build, expected = NETWORKS[name]
    model = shake(build())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert sizes(couple(read(loaded), strict=True)) == expected
    for layer in model.layers:
        assert list(named_weights(layer)) == list(named_weights(loaded.get_layer(layer.name)))
    smaller = require_law(loaded, 0)
    if name == "stateful":
        smaller = keras_qcqp.rebuild(model, plan_from(couple(read(model)), random_keep(couple(read(model)), 0)))
    smaller.save(tmp_path / "smaller.keras")
    again = keras.models.load_model(tmp_path / "smaller.keras")
    arrays = images(model)
    for a, b in zip(outputs(again, arrays), outputs(smaller, arrays), strict=True):
        np.testing.assert_array_equal(a, b)
    assert type(smaller) is type(model)
    names = [layer.name for layer in model.layers if layer.weights]
    assert [layer.name for layer in smaller.layers if layer.weights] == names


def test_names_of_weights_do_not_depend_on_where_they_were_built():
    """Two directions whose names end like their wrapper's, and a layer that was renamed."""
    both = L.Bidirectional(L.GRU(4, name="x", use_bias=False), name="x")
    keras.Sequential([keras.Input(SEQUENCE), both], name="x")
    inside = [f"{side}_x/gru_cell/{w}" for side in ("forward", "backward") for w in ("kernel", "recurrent_kernel")]
    assert list(named_weights(both)) == inside
    dense = L.Dense(3, name="kernel")
    dense.build((None, 2))
    assert list(named_weights(dense)) == ["kernel", "bias"]
    dense.name = "renamed"
    assert list(named_weights(dense)) == ["kernel", "bias"]


def ends_in(*layers: keras.layers.Layer, shape: tuple[int, ...] = SEQUENCE) -> keras.Model:
    return chain(L.Dense(4, name="before"), *layers, shape=shape)


@keras.saving.register_keras_serializable("tests")
class Leaky(L.Layer):
    """A recurrent cell of a user's own."""

    def __init__(self, units: int, **options) -> None:
        super().__init__(**options)
        self.units = self.state_size = self.output_size = units

    def build(self, shape) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, inputs, states):
        out = inputs @ self.kernel + 0.5 * states[0]
        return out, [out]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Halved(L.Wrapper):
    """A wrapper of a user's own."""

    def call(self, inputs):
        return 0.5 * self.layer(inputs)

    def compute_output_shape(self, shape):
        return self.layer.compute_output_shape(shape)


@keras.saving.register_keras_serializable("tests")
def blend(x):
    """Looks at all channels at once."""
    return x - keras.ops.mean(x, axis=-1, keepdims=True)


def shifted(x):
    """Not registered with Keras: layers inside a wrapper are copied with the functions they have."""
    return keras.ops.relu(x) + 1


def constant_state() -> keras.Model:
    given = keras.Input(SEQUENCE, batch_size=3)
    state = keras.ops.ones((3, 4))
    return keras.Model(given, L.Dense(2)(L.GRU(4, name="a")(L.Dense(4, name="before")(given), initial_state=state)))


def computed_tokens() -> keras.Model:
    given = keras.Input((5,))
    numbers = L.ReLU(max_value=6)(L.Dense(4, name="before")(given))
    return keras.Model(given, L.Dense(2)(L.LSTM(4)(L.Embedding(7, 4, mask_zero=True, name="embed")(numbers))))


def frames(*layers: keras.layers.Layer) -> keras.Model:
    return chain(L.TimeDistributed(L.Conv2D(4, 3)), *layers, L.Flatten(), shape=(3, 6, 6, 2))


def inner_model() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), L.Dense(4, name="inside")], name="inner")


@pytest.mark.parametrize(
    ("model", "free", "reason"),
    [
        (lambda: ends_in(L.LSTM(4, activation="softmax")), {"before"}, "activation 'softmax' is not known to work"),
        (
            lambda: ends_in(L.GRU(4, recurrent_activation=blend)),
            {"before"},
            "blend' is not known to work channel by channel",
        ),
        (lambda: ends_in(L.RNN(Leaky(4))), set(), "what cell Leaky does to its units is unknown; LSTMCell, GRUCell"),
        (lambda: ends_in(L.RNN([L.GRUCell(4), Leaky(4)])), set(), "what cell Leaky does to its units is unknown"),
        (lambda: ends_in(L.Bidirectional(L.RNN(Leaky(4)))), set(), "what cell Leaky does to its units is unknown"),
        (lambda: ends_in(Halved(L.Dense(4))), set(), "no rule for layer class Halved; add one with"),
        (lambda: ends_in(L.TimeDistributed(Halved(L.Dense(4)))), set(), "no rule for layer class Halved; add one with"),
        (lambda: ends_in(L.TimeDistributed(L.Dense(4, activation=shifted))), {"before"}, "activation 'shifted' is not"),
        (lambda: ends_in(L.TimeDistributed(L.Lambda(lambda x: shifted(x)))), set(), "Lambda may do anything"),
        (lambda: ends_in(L.TimeDistributed(inner_model())), set(), "a wrapped model (Sequential) is not followed"),
        (
            lambda: ends_in(L.Permute((2, 1)), L.GRU(4, name="a")),
            {"a"},
            "GRU mixes along axis 2, the channels lie along",
        ),
        (
            lambda: ends_in(L.Permute((2, 1)), L.TimeDistributed(L.Dense(4))),
            set(),
            "the channels lie along the axis of",
        ),
        (
            lambda: frames(L.Permute((4, 1, 2, 3)), L.TimeDistributed(L.MaxPooling2D(2))),
            set(),
            "along the axis of time",
        ),
        (
            lambda: ends_in(L.Masking(), L.LSTM(4, name="a")),
            {"a"},
            "a time step is masked by all its channels together",
        ),
        (constant_state, set(), "a state or mask is a constant array; make it an input or the output of a layer"),
        (computed_tokens, {"embed", "lstm"}, "an Embedding looks up each of these numbers"),
    ],
)
def test_what_is_frozen_and_why(model, free, reason):
    """And the law holds all the same."""
    keras.backend.clear_session()
    model = shake(model())
    coupling = couple(read(model))
    assert any(reason in f.reason for f in coupling.frozen), coupling.frozen
    assert set(sizes(coupling)) == free
    require_law(model, 0)


def test_directions_of_different_shapes_are_kept():
    """Keras itself is wrong about the shapes of such a layer, so it does not compute."""
    both = L.Bidirectional(L.GRU(4), backward_layer=L.GRU(3, go_backwards=True), name="both")
    reasons = {f.node: f.reason for f in couple(read(ends_in(both))).frozen}
    assert reasons == {"both": "the two directions differ in the shapes of what they return: [4] and [3] units"}


def test_nothing_is_told_of_masks_that_come_from_the_input():
    """Masking and Embedding make comparisons of what is never pruned; `strict` has nothing to refuse."""
    model = chain(
        L.Masking(mask_value=0.5, name="mask"), L.LSTM(4, return_sequences=True, name="a"), L.GRU(5, name="b")
    )
    coupling = couple(read(model), strict=True)
    assert coupling.frozen == ()
    assert sizes(coupling) == {"a": 4, "b": 5}
    arrays = images(model)
    arrays[0][:, 1:3] = 0.5
    plan = plan_from(coupling, random_keep(coupling, 1))
    got, wanted = (
        outputs(m, arrays)[0] for m in (keras_qcqp.rebuild(shake(model), plan), keras_qcqp.masked(model, plan))
    )
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    whole = outputs(keras_qcqp.rebuild(model, plan), images(model))[0]
    assert np.abs(got - whole).max() > 1e-3  # the mask matters


def test_macs_by_hand():
    """Steps x gates x (what is read + what is remembered) x units; a wrapper's times its steps."""

    def macs(*layers, shape=SEQUENCE):
        model = keras.Sequential([keras.Input(shape), *layers])
        return keras_qcqp.measure(model)["macs"]

    assert macs(L.LSTM(4)) == 5 * 4 * (3 + 4) * 4
    assert macs(L.GRU(4, reset_after=False)) == 5 * 3 * (3 + 4) * 4
    assert macs(L.Bidirectional(L.SimpleRNN(4))) == 2 * 5 * (3 + 4) * 4
    assert macs(L.RNN([L.LSTMCell(4), L.GRUCell(6)])) == 5 * (4 * (3 + 4) * 4 + 3 * (4 + 6) * 6)
    assert macs(L.ConvLSTM2D(4, 2), shape=(3, 6, 6, 2)) == 3 * 25 * 4 * 4 * (2 + 4) * 4
    assert macs(L.TimeDistributed(L.Dense(4))) == 5 * 3 * 4
    assert macs(L.TimeDistributed(L.Conv1D(4, 3)), shape=(5, 6, 2)) == 5 * 4 * 3 * 2 * 4
    free = keras.Sequential([keras.Input((None, 3)), L.LSTM(4)])
    assert "macs" not in keras_qcqp.measure(free)
    assert keras_qcqp.measure(free)["params"] == 4 * 4 * (3 + 4 + 1)


def test_a_dropped_unit_is_not_remembered():
    """Zeroed are the rows of the recurrent kernel that read it, and what later cells read of it; nothing else is."""
    model = shake(chain(L.RNN([L.LSTMCell(4, name="one"), L.GRUCell(3, name="two")], name="r")))
    coupling = couple(read(model))
    keep = tuple(np.arange(m.size) != 1 if not m.frozen else np.ones(m.size, bool) for m in coupling.masks)
    before, after = (
        named_weights(m.get_layer("r")) for m in (model, keras_qcqp.masked(model, plan_from(coupling, keep)))
    )
    changed = {name: np.argwhere(np.asarray(before[name]) != np.asarray(after[name])) for name in before}
    rows = {name: set(where[:, 0].tolist()) for name, where in changed.items() if len(where)}
    cells = "stacked_rnn_cells"
    names = [name.partition("/")[2] for name in rows]
    assert names == ["one/recurrent_kernel", "two/kernel", "two/recurrent_kernel"], cells
    assert all(where == {1} for where in rows.values())


def test_flags_of_inner_layers_stay():
    """A direction that is not trained is not trained in the pruned model either."""
    both = L.Bidirectional(L.GRU(4), name="both")
    model = shake(chain(both))
    both.backward_layer.trainable = False
    coupling = couple(read(model))
    smaller = keras_qcqp.rebuild(model, plan_from(coupling, random_keep(coupling, 0))).get_layer("both")
    assert [v.trainable for v in smaller.weights] == [v.trainable for v in both.weights] == [True] * 3 + [False] * 3


def test_a_keyword_spotting_network_meets_its_budget():
    given = keras.Input((16, 8), name="mel")
    x = L.Conv1D(12, 3, padding="same", name="conv")(given)
    x = L.BatchNormalization(name="norm")(x)
    x = L.GRU(16, return_sequences=True, name="first")(L.ReLU(name="relu")(x))
    x = L.Bidirectional(L.GRU(12), name="second")(x)
    model = shake(keras.Model(given, L.Dense(4, activation="softmax", name="words")(x), name="keywords"))
    before = keras_qcqp.measure(model)
    result = keras_qcqp.prune(model, {"macs": 0.5, "params": 0.6}, time_limit_s=3)
    after = keras_qcqp.measure(result.model)
    assert after == dict(result.solution.usage)
    assert 0.45 * before["macs"] < after["macs"] <= 0.5 * before["macs"]
    assert after["params"] == result.model.count_params() <= 0.6 * before["params"]
    second = result.model.get_layer("second")
    assert second.output.shape[-1] == 2 * second.forward_layer.units == 2 * second.backward_layer.units
    assert result.model.get_layer("first").units < 16


def test_a_namesake_inside_a_wrapper_is_not_taken_for_the_layer_of_keras():
    class Dense(L.Layer):
        """Mixes all channels, whatever it is called."""

        def call(self, x):
            return keras.ops.cumsum(x, axis=-1)

        def compute_output_shape(self, input_shape):
            return input_shape

    x = signal = keras.Input((5, 3), name="signal")
    x = L.TimeDistributed(Dense(), name="wrapped")(L.Conv1D(6, 3, padding="same", name="a")(x))
    model = keras.Model(signal, L.Dense(2, name="head")(L.Flatten(name="flat")(x)))
    (frozen,) = couple(read(model)).frozen
    assert (frozen.node, frozen.num_channels) == ("wrapped", 6)
    assert "wrapped layer class Dense is not registered" in frozen.reason
