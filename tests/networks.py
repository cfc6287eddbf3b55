"""Test networks: named ones under a drawing each, and a generator that draws valid graphs at random.

All are small, have random weights, and batch norms whose shifts would revive a channel zeroed where it is made.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

L = keras.layers


def shake(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every variable a value that matters: shifts, slopes and statistics far from their initial 0 and 1."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if not variable.dtype.startswith("float") and variable.dtype != "bfloat16":
            continue
        if variable.name in ("moving_variance", "variance"):
            value = random.uniform(0.5, 2.0, variable.shape)
        elif variable.name in ("gamma", "alpha"):
            value = random.uniform(0.3, 1.5, variable.shape)
        elif len(variable.shape) < 2:
            value = random.normal(0.5, 1.0, variable.shape)
        else:
            value = random.normal(0.0, 1.0 / np.sqrt(max(np.prod(variable.shape[:-1]), 1)), variable.shape)
        variable.assign(value)
    for layer in model.layers:
        if isinstance(layer, L.Normalization):
            layer.finalize_state()
    return model


def images(model: keras.Model, count: int = 3, seed: int = 1) -> list[np.ndarray]:
    """Random inputs, one array for each input of the model: small numbers, counts or words, as its dtype asks."""
    random = np.random.default_rng(seed)
    return [_array(random, (count, *x.shape[1:]), x.dtype) for x in model.inputs]


def _array(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "string":
        return keras.ops.convert_to_tensor(random.choice(["a", "b", "c"], shape).tolist(), dtype="string")
    return random.integers(0, 7, shape).astype(dtype) if "int" in dtype else random.normal(size=shape).astype(dtype)


def outputs(model: keras.Model, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Flat list of outputs in inference mode."""
    given = model.inputs if isinstance(model, keras.Sequential) else model.input
    structure = keras.tree.pack_sequence_as(given, arrays)
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(structure, training=False))]


def conv_bn(x, filters: int, name: str, strides: int = 1, activation: str = "relu"):
    x = L.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = L.BatchNormalization(name=f"{name}_bn")(x)
    return L.Activation(activation, name=f"{name}_act")(x)


def chain() -> keras.Model:
    """image -> conv bn sigmoid -> maxpool -> conv bn relu -> flatten -> dense -> dense"""
    x = image = keras.Input((8, 8, 3), name="image")
    x = conv_bn(x, 6, "a", activation="sigmoid")
    x = L.MaxPooling2D(name="pool")(x)
    x = conv_bn(x, 5, "b")
    x = L.Flatten(name="flat")(x)
    x = L.Dense(7, activation="tanh", name="hidden")(x)
    return keras.Model(image, L.Dense(4, name="head")(x), name="chain")


def residual() -> keras.Model:
    """stem -+-> conv bn relu conv bn -+-> add relu -+-> conv/2 ... -+-> add -> mean -> dense
    +-------------------------+             +-> 1x1 conv/2 -+"""
    image = keras.Input((8, 8, 3), name="image")
    x = conv_bn(image, 8, "stem")
    y = conv_bn(conv_bn(x, 6, "a1"), 8, "a2", activation="linear")
    x = L.ReLU(name="sum_a_act")(L.Add(name="sum_a")([x, y]))
    y = conv_bn(conv_bn(x, 7, "b1", strides=2), 12, "b2", activation="linear")
    x = L.Add(name="sum_b")([L.Conv2D(12, 1, 2, use_bias=False, name="short")(x), y])
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Dense(5, activation="softmax", name="head")(x), name="residual")


def option_a() -> keras.Model:
    """stem -+-> conv/2 bn -----------------------------+-> add -> mean -> dense
    +-> maxpool(1)/2 -> pad channels with zeros +"""
    image = keras.Input((8, 8, 3), name="image")
    x = conv_bn(image, 6, "stem")
    y = conv_bn(x, 12, "a", strides=2, activation="linear")
    x = L.MaxPooling2D(1, strides=2, name="subsample")(x)
    x = L.ZeroPadding2D(((0, 0), (3, 3)), data_format="channels_first", name="widen")(x)
    x = L.Add(name="sum")([x, y])
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Dense(5, name="head")(x), name="option_a")


def residual_stage() -> keras.Model:
    """stem -> [bn relu conv conv, 1x1 conv] added to the stem -> relu -> two more residual blocks -> mean -> dense"""
    image = keras.Input((8, 8, 3), name="image")
    x = conv_bn(image, 10, "stem")
    y = conv_bn(conv_bn(x, 5, "a1"), 10, "a2", activation="linear")
    x = L.Add(name="sum_a")([x, y, L.Conv2D(10, 1, name="side")(x)])
    for block in "bc":
        y = conv_bn(conv_bn(x, 6, f"{block}1"), 10, f"{block}2", activation="linear")
        x = L.ReLU(name=f"sum_{block}_act")(L.Add(name=f"sum_{block}")([x, y]))
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Dense(5, name="head")(x), name="residual_stage")


def option_a_forms() -> keras.Model:
    """Twice as many channels by a strided slice and ops.pad, then by zeros_like of slices at both sides"""
    ops = keras.ops
    image = keras.Input((8, 8, 3), name="image")
    x = conv_bn(image, 6, "stem")
    y = conv_bn(x, 12, "a", strides=2, activation="linear")
    x = L.ReLU(name="act_a")(y + ops.pad(x[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (2, 4))))
    y = conv_bn(x, 24, "b", strides=2, activation="linear")
    x = x[:, ::2, ::2]
    x = L.Add(name="sum_b")(
        [L.Concatenate(name="widen")([ops.zeros_like(x[..., :5]), x, ops.zeros_like(x)[..., 5:]]), y]
    )
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Dense(5, name="head")(x), name="option_a_forms")


def dense_block() -> keras.Model:
    """x0 -> conv -> concat(x0, x1) -> conv -> concat(x0, x1, x2) -> bn relu -> 1x1 conv -> max -> dense"""
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="x0")(image)
    for k in (1, 2):
        y = L.Conv2D(4, 3, padding="same", name=f"x{k}")(L.ReLU(name=f"act{k}")(x))
        x = L.Concatenate(name=f"join{k}")([x, y])
    x = L.Conv2D(8, 1, name="mix")(L.ReLU(name="act")(L.BatchNormalization(name="bn")(x)))
    x = L.GlobalMaxPooling2D(name="max")(x)
    return keras.Model(image, L.Dense(5, name="head")(x), name="dense_block")


def inverted_residual() -> keras.Model:
    """stem -+-> 1x1 expand -> depthwise -> [x] -> 1x1 project -+-> add -> separable -> mean -> dense
    |        squeeze-and-excite ----^                  |
    +--------------------------------------------------+"""
    image = keras.Input((8, 8, 3), name="image")
    x = conv_bn(image, 6, "stem", activation="relu6")
    y = conv_bn(x, 12, "expand", activation="silu")
    y = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw")(y)
    y = L.PReLU(shared_axes=[1, 2], name="dw_prelu")(y)
    gate = L.GlobalAveragePooling2D(keepdims=True, name="squeeze")(y)
    gate = L.Conv2D(5, 1, activation="relu", name="reduce")(gate)
    gate = L.Conv2D(24, 1, activation="sigmoid", name="excite")(gate)
    y = L.Multiply(name="scale")([y, gate])
    y = L.Conv2D(6, 1, name="project")(y)
    x = L.Add(name="sum")([x, y])
    x = L.SeparableConv2D(9, 3, padding="same", depth_multiplier=2, name="separable")(x)
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Dense(5, name="head")(x), name="inverted_residual")


def two_by_two() -> keras.Model:
    """left -> tower -+-> multiply -> conv -> maximum -> "mask" (output)
    right -> tower +      (tower is one shared nested model)   +-> mean -> "label" (output)"""
    inner = keras.Input((8, 8, 3), name="inner")
    y = conv_bn(inner, 6, "t1")
    tower = keras.Model(inner, conv_bn(y, 8, "t2"), name="tower")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    x = L.Multiply(name="product")([tower(left), tower(right)])
    x = conv_bn(x, 7, "after")
    x = L.Maximum(name="maximum")([x, L.Conv2D(7, 1, name="side")(x)])
    mask = L.Conv2D(2, 1, activation="sigmoid", name="mask")(x)
    label = L.Dense(3, name="label")(L.GlobalAveragePooling2D(name="mean")(x))
    return keras.Model({"left": left, "right": right}, {"mask": mask, "label": label}, name="two_by_two")


def u_net() -> keras.Model:
    """conv -+-> pool -> conv -> upsample -+-> concat -> conv transpose -> crop -> pad -> 1x1 conv
    +-----------------------------+"""
    image = keras.Input((8, 8, 3), name="image")
    skip = conv_bn(image, 5, "down")
    x = conv_bn(L.AveragePooling2D(2, name="pool")(skip), 7, "deep")
    x = L.UpSampling2D(name="up", interpolation="bilinear")(x)
    x = L.Concatenate(name="join")([skip, x])
    x = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="grow")(x)
    x = L.ZeroPadding2D(1, name="pad")(L.Cropping2D(2, name="crop")(x))
    return keras.Model(image, L.Conv2D(2, 1, name="head")(x), name="u_net")


def operations() -> keras.Model:
    """conv -> x * 0.5 + ops.relu -> ops.reshape -> ops.mean -> ops.concatenate -> dense, and a Reshape that splits"""
    ops = keras.ops
    image = keras.Input((4, 4, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="a")(image)
    x = ops.relu(x) * 0.5 + L.Conv2D(6, 1, name="b")(image)
    x = ops.mean(ops.reshape(x, (-1, 16, 6)), axis=1)
    x = ops.concatenate([x, L.Dense(5, name="c")(x)], axis=-1)
    x = L.Dense(2 * 2 * 4, name="d")(x)
    x = L.Reshape((2, 2, 4), name="split")(x)
    x = L.Conv2D(5, 2, name="e")(x)
    return keras.Model(image, L.Dense(3, name="head")(L.Flatten(name="flat")(x)), name="operations")


def grouped() -> keras.Model:
    """conv 8 -> grouped conv (4 groups) -> depthwise written as a grouped conv -> mean -> dense"""
    image = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="a")(image)
    x = L.Conv2D(12, 3, padding="same", groups=4, activation="relu", name="b")(x)
    x = L.Conv2D(24, 3, padding="same", groups=12, name="c")(x)
    return keras.Model(image, L.Dense(3, name="head")(L.GlobalAveragePooling2D(name="mean")(x)), name="grouped")


def shared_layer() -> keras.Model:
    """conv a -> conv twice (the same layer) -> concat of both calls -> dense"""
    image = keras.Input((6, 6, 3), name="image")
    twice = L.Conv2D(6, 3, padding="same", activation="tanh", name="twice")
    x = L.Conv2D(6, 3, padding="same", name="a")(image)
    y = twice(x)
    z = twice(y)
    x = L.GlobalAveragePooling2D(name="mean")(L.Concatenate(name="join")([y, z]))
    return keras.Model(image, L.Dense(3, name="head")(x), name="shared_layer")


def sequential() -> keras.Model:
    """A Sequential with a nested Sequential, 1D convolutions and a Normalization in the middle."""
    block = keras.Sequential(
        [L.Conv1D(6, 3, padding="same", name="c1"), L.BatchNormalization(name="n1"), L.LeakyReLU(name="r1")],
        name="block",
    )
    return keras.Sequential(
        [
            keras.Input((12, 2), name="signal"),
            L.Rescaling(0.5, offset=0.1, name="rescale"),
            L.SeparableConv1D(5, 3, name="sep"),
            block,
            L.Normalization(name="norm"),
            L.SpatialDropout1D(0.2, name="drop"),
            L.DepthwiseConv1D(3, name="dw"),
            L.GlobalMaxPooling1D(name="max"),
            L.Dense(4, name="head"),
        ],
        name="sequential",
    )


def volume() -> keras.Model:
    """3D convolutions, cropping, padding and pooling"""
    x = image = keras.Input((4, 6, 6, 2), name="volume")
    x = L.Conv3D(5, 3, padding="same", activation="relu", name="a")(x)
    x = L.AveragePooling3D((1, 2, 2), name="pool")(x)
    x = L.ZeroPadding3D(1, name="pad")(L.Cropping3D((1, 0, 0), name="crop")(x))
    x = L.Conv3D(4, 2, name="b")(x)
    return keras.Model(image, L.Dense(3, name="head")(L.Flatten(name="flat")(x)), name="volume")


def frozen_parts() -> keras.Model:
    """conv -> layer norm over channels (frozen) -> conv -> softmax over channels (frozen) -> conv -> dense"""
    x = image = keras.Input((6, 6, 3), name="image")
    x = L.LayerNormalization(name="layer_norm")(L.Conv2D(5, 3, name="a")(x))
    x = L.Conv2D(6, 3, activation="relu", name="b")(x)
    x = L.Softmax(name="mixing")(L.Conv2D(5, 1, name="c")(x))
    x = L.Conv2D(6, 1, name="d")(x)
    return keras.Model(image, L.Dense(3, name="head")(L.GlobalAveragePooling2D(name="mean")(x)), name="frozen_parts")


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    build.__name__: build
    for build in (
        chain,
        residual,
        option_a,
        residual_stage,
        option_a_forms,
        dense_block,
        inverted_residual,
        two_by_two,
        u_net,
        operations,
        grouped,
        shared_layer,
        sequential,
        volume,
        frozen_parts,
    )
}
