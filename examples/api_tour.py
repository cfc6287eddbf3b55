"""A tour of the API on a tiny network: `python examples/api_tour.py`. Prints as it goes; takes seconds."""

from __future__ import annotations

from tflite_tools.quiet import silenced

with silenced():  # TensorFlow's banner and, at its first tensor, a search for GPUs; no log level switches them off
    import keras

    keras.ops.zeros(1)

import numpy as np

import keras_qcqp

keras.utils.set_random_seed(0)


@keras.saving.register_keras_serializable()
class ChannelScale(keras.layers.Layer):
    """A layer the package cannot know: one learned factor for each channel."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.factor


def channel_scale_rule(call: keras_qcqp.Call) -> keras_qcqp.Spec:
    """The channels that come in go out; axis 0 of `factor` follows them."""
    return keras_qcqp.Spec(call.inputs, weights={"factor": (keras_qcqp.In(),)})


image = keras.Input((16, 16, 3), name="image")
x = keras.layers.Conv2D(8, 3, activation="relu", name="first")(image)
x = ChannelScale(name="scale")(x)
x = keras.layers.Conv2D(12, 3, activation="relu", name="second")(x)
model = keras.Model(image, keras.layers.Dense(4, name="head")(keras.layers.GlobalMaxPooling2D()(x)), name="tiny")

print("1. What it costs:", keras_qcqp.measure(model))

print("\n2. An unknown layer is kept whole and reported, never guessed:")
for frozen in keras_qcqp.prune(model, {"macs": 0.5}).report.frozen:
    print(f"   {frozen.node}: {frozen.reason}")

print("\n3. With a rule for it, one budget or several, as dict, text or value; each is a hard limit:")
keras_qcqp.register_rule(ChannelScale, channel_scale_rule)
for budget in ({"macs": 0.5}, "macs=0.5,params=500", keras_qcqp.Budget(flops=150_000, activation_bytes=0.7)):
    result = keras_qcqp.prune(model, budget)
    print(f"   {keras_qcqp.Budget.of(budget)}\n      {result.solution}")

print(f"\n4. The last report:\n{result.report}")

print("\n5. The plan says which channels stay; it is data, and rebuilds the same network elsewhere:")
print("   first keeps", result.plan.layers["first"].out_index[0])
again = keras_qcqp.rebuild(model, keras_qcqp.Plan.from_json(result.plan.to_json()))
images = np.random.default_rng(0).uniform(size=(4, 16, 16, 3))
print("   largest difference:", float(np.abs(again(images) - result.model(images)).max()))
