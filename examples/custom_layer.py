"""Prunes through a layer of one's own, with a rule, a slicer and a cost: `python examples/custom_layer.py`.

The layer is the convolution of Progressive GANs (Karras et al., 2018): its kernel is scaled while it runs, by a factor
that depends on how many channels it reads. So positions are not all there is to its smaller kernel.
"""

from __future__ import annotations

from tflite_tools.quiet import silenced

with silenced():  # TensorFlow's banner and, at its first tensor, a search for GPUs; no log level switches them off
    import keras

    keras.ops.zeros(1)

from typing import Any

import numpy as np

import keras_qcqp

keras.utils.set_random_seed(0)


@keras.saving.register_keras_serializable("examples")  # without it the saved model needs custom_objects to load
class EqualizedConv2D(keras.layers.Layer):
    """y = conv(x, kernel * sqrt(2 / fan_in)) + bias"""

    def __init__(self, filters: int, kernel_size: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.filters, self.kernel_size = filters, kernel_size

    def build(self, shape: tuple[int | None, ...]) -> None:
        size = self.kernel_size
        self.kernel = self.add_weight((size, size, shape[-1], self.filters), "random_normal", name="kernel")
        self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        scale = (2 / (self.kernel_size**2 * x.shape[-1])) ** 0.5
        return keras.ops.conv(x, self.kernel * scale, padding="same") + self.bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size}


image = keras.Input((16, 16, 3), name="image")
x = keras.layers.Conv2D(8, 3, activation="relu", name="first")(image)
x = keras.layers.ReLU()(EqualizedConv2D(12, name="equalized")(x))
model = keras.Model(image, keras.layers.Dense(4, name="head")(keras.layers.GlobalMaxPooling2D()(x)), name="tiny")

print("1. Without a rule the layer is kept whole, and strict=True refuses:")
try:
    keras_qcqp.prune(model, {"params": 0.5}, strict=True)
except keras_qcqp.FrozenLayerError as error:
    print(f"   {error}")

# README: begin
from keras_qcqp import In, Out, Spec  # noqa: E402
from keras_qcqp.slicing import take  # noqa: E402

WEIGHTS = {"kernel": (None, None, In(), Out()), "bias": (Out(),)}  # which axis of each weight follows which channels


def slicer(values, plan):  # fewer channels, a greater factor while it runs: the kernel makes up for it
    share = len(plan.in_index[0]) / plan.in_size[0]
    smaller = take(values, WEIGHTS, plan)
    return {**smaller, "kernel": smaller["kernel"] * share**0.5}


def cost(call):  # multiply-accumulates: (coefficient, widths that multiply it)
    _, height, width, _ = call.node.outputs[0].shape
    return ((height * width * call.node.config["kernel_size"] ** 2, (In(), Out())),)


@keras_qcqp.register_rule(EqualizedConv2D, slicer=slicer, cost=cost)
def rule(call):  # new channels go out, and `filters` in the configuration says how many
    return Spec((call.fresh(),), weights=WEIGHTS, config={"filters": Out()})


# README: end

result = keras_qcqp.prune(model, {"macs": 0.5, "params": 0.5})
print(f"\n2. With one:\n{result.report}")
images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
difference = np.abs(result.model(images) - keras_qcqp.masked(model, result.plan)(images)).max()
print(f"\n3. Rebuilt and masked original differ by at most {difference:.1e}.")
