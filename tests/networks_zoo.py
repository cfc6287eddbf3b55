"""Shapes of well-known architectures, each small and under a drawing, and what must be free and frozen in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import keras
from networks import conv_bn

L = keras.layers


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, the sizes of its free masks by name, and all that is told to be frozen: call -> reason."""

    build: Callable[[], keras.Model]
    free: Mapping[str, int]
    frozen: Mapping[str, str] = dataclasses.field(default_factory=dict)


def conv(x, filters: int, name: str, size: int = 3, **options):
    return L.Conv2D(filters, size, padding="same", activation="relu", name=name, **options)(x)


def _image(size: int = 8):
    return keras.Input((size, size, 3), name="image")


def _head(x, units: int = 3):
    return L.Dense(units, name="head")(L.GlobalAveragePooling2D(name="mean")(x))


def shuffle_net() -> keras.Model:
    """stem -> split -+-> first half ---------------+-> concat -> shuffle (reshape, permute, reshape) -> twice -> mean
    +-> 1x1, depthwise, 1x1 --------+"""
    image = _image()
    x = conv(image, 8, "stem")
    for block in "ab":
        keep, work = x[..., :4], x[..., 4:]
        work = conv(work, 6, f"{block}_expand", 1)
        work = L.DepthwiseConv2D(3, padding="same", name=f"{block}_dw")(work)
        work = conv(work, 4, f"{block}_project", 1)
        x = L.Concatenate(name=f"{block}_join")([keep, work])
        x = L.Reshape((8, 8, 2, 4), name=f"{block}_groups")(x)
        x = L.Permute((1, 2, 4, 3), name=f"{block}_swap")(x)
        x = L.Reshape((8, 8, 8), name=f"{block}_flat")(x)
    return keras.Model(image, _head(x), name="shuffle_net")


def feature_pyramid() -> keras.Model:
    """c3 -> c4 -> c5; 1x1 laterals, upsampled and added top-down; one shared head on three scales -> three outputs"""
    image = _image(16)
    c3 = conv(image, 6, "c3", strides=2)
    c4 = conv(c3, 7, "c4", strides=2)
    c5 = conv(c4, 9, "c5", strides=2)
    p5 = L.Conv2D(5, 1, name="l5")(c5)
    p4 = L.Add(name="p4")([L.UpSampling2D(name="up5")(p5), L.Conv2D(5, 1, name="l4")(c4)])
    p3 = L.Add(name="p3")([L.UpSampling2D(name="up4")(p4), L.Conv2D(5, 1, name="l3")(c3)])
    level = keras.Input((None, None, 5), name="level")
    shared = keras.Model(level, L.Conv2D(2, 1, name="boxes")(conv(level, 4, "tower")), name="shared")
    return keras.Model(image, [shared(p) for p in (p3, p4, p5)], name="feature_pyramid")


def atrous_pyramid() -> keras.Model:
    """stem -> [1x1, 3x3 dilated by 2, by 3, image mean 1x1 upsampled] -> concat -> 1x1 -> logits resized"""
    image = _image()
    x = conv_bn(image, 6, "stem")
    branches = [conv(x, 4, "one", 1), conv(x, 5, "by_2", dilation_rate=2), conv(x, 3, "by_3", dilation_rate=3)]
    pooled = conv(L.GlobalAveragePooling2D(keepdims=True, name="pool")(x), 4, "pooled", 1)
    branches.append(L.Resizing(8, 8, name="spread")(pooled))
    x = conv(L.Concatenate(name="join")(branches), 7, "project", 1)
    return keras.Model(image, L.Resizing(16, 16, name="full")(L.Conv2D(2, 1, name="logits")(x)), name="atrous_pyramid")


def inception() -> keras.Model:
    """stem -> [1x1 | 1x1 3x3 | 1x1 5x5 | maxpool 1x1] -> concat, twice -> mean"""
    image = _image()
    x = conv(image, 5, "stem")
    for block in "ab":
        x = L.Concatenate(name=f"{block}_join")(
            [
                conv(x, 3, f"{block}_one", 1),
                conv(conv(x, 2, f"{block}_three_in", 1), 4, f"{block}_three"),
                conv(conv(x, 2, f"{block}_five_in", 1), 3, f"{block}_five", 5),
                conv(L.MaxPooling2D(3, 1, "same", name=f"{block}_pool")(x), 2, f"{block}_pooled", 1),
            ]
        )
    return keras.Model(image, _head(x), name="inception")


def single_shot() -> keras.Model:
    """backbone -> scale 1 -> scale 2; on both: boxes and classes, reshaped to (anchors, 4) and (anchors, 3), joined"""
    image = _image()
    x = conv(image, 6, "backbone")
    boxes, classes = [], []
    for scale in (1, 2):
        x = conv(x, 5 + scale, f"scale_{scale}", strides=2)
        for outputs, width, name in ((boxes, 4, "box"), (classes, 3, "class")):
            y = L.Conv2D(2 * width, 3, padding="same", name=f"{name}_{scale}")(x)
            outputs.append(L.Reshape((-1, width), name=f"{name}_{scale}_flat")(y))
    joined = {
        "boxes": L.Concatenate(axis=1, name="boxes")(boxes),
        "classes": L.Softmax(name="probabilities")(L.Concatenate(axis=1, name="classes")(classes)),
    }
    return keras.Model(image, joined, name="single_shot")


def transposed_u_net() -> keras.Model:
    """down 1 -> down 2 -> bottom -> transposed conv + skip 2 -> transposed conv + skip 1 -> mask"""
    image = _image()
    one = conv_bn(image, 4, "down_1")
    two = conv_bn(L.MaxPooling2D(name="pool_1")(one), 5, "down_2")
    x = conv_bn(L.MaxPooling2D(name="pool_2")(two), 7, "bottom")
    for skip, width, name in ((two, 5, "up_2"), (one, 4, "up_1")):
        x = L.Conv2DTranspose(width, 2, 2, name=f"{name}_grow")(x)
        x = conv_bn(L.Concatenate(name=f"{name}_join")([x, skip]), width + 1, name)
    return keras.Model(image, L.Conv2D(1, 1, activation="sigmoid", name="mask")(x), name="transposed_u_net")


def structures() -> keras.Model:
    """A nested model that takes {"image", "extra": [a, b]} and returns ([map, vector], {"gate"})"""
    entry = {
        "image": keras.Input((6, 6, 4), name="inner_image"),
        "extra": [keras.Input((5,), name="inner_a"), keras.Input((5,), name="inner_b")],
    }
    x = conv(entry["image"], 6, "map")
    vector = L.Add(name="both")(
        [L.Dense(7, name="of_a")(entry["extra"][0]), L.Dense(7, name="of_b")(entry["extra"][1])]
    )
    gate = L.Dense(6, activation="sigmoid", name="gate")(vector)
    inner = keras.Model(entry, ([x, vector], {"gate": gate}), name="inner")
    image, a = _image(6), keras.Input((3,), name="a")
    shared = L.Dense(5, name="shared")
    (x, vector), named = inner({"image": conv(image, 4, "outer"), "extra": [shared(a), shared(a)]})
    x = L.Multiply(name="gated")([x, L.Reshape((1, 1, 6), name="wide")(named["gate"])])
    x = L.Concatenate(name="join")([L.GlobalAveragePooling2D(name="mean")(x), vector])
    return keras.Model({"image": image, "a": a}, {"head": L.Dense(2, name="head")(x)}, name="structures")


def matryoshka() -> keras.Model:
    """Sequential( conv, Functional( residual of a Sequential( conv bn relu ) ), mean, dense )"""
    core = keras.Sequential(
        [
            keras.Input((8, 8, 5)),
            L.Conv2D(5, 3, padding="same", name="c"),
            L.BatchNormalization(name="n"),
            L.ReLU(name="r"),
        ],
        name="core",
    )
    inner = keras.Input((8, 8, 5), name="inner")
    middle = keras.Model(inner, conv(L.Add(name="sum")([inner, core(inner)]), 6, "after"), name="middle")
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            L.Conv2D(5, 3, padding="same", name="first"),
            middle,
            L.GlobalAveragePooling2D(name="mean"),
            L.Dense(3, name="head"),
        ],
        name="matryoshka",
    )


def thrice() -> keras.Model:
    """first -> block -> block -> block (one model, called three times) -> mean"""
    inner = keras.Input((8, 8, 6), name="inner")
    block = keras.Model(inner, conv(conv(inner, 9, "wide"), 6, "narrow"), name="block")
    image = _image()
    x = conv(image, 6, "first")
    for _ in range(3):
        x = block(x)
    return keras.Model(image, _head(x), name="thrice")


def dense_net() -> keras.Model:
    """dense block of three layers -> transition (bn, 1x1, pool) -> dense block -> bn -> mean"""
    image = _image()
    x = conv(image, 4, "stem")
    for block in "ab":
        for k in range(3):
            y = L.ReLU(name=f"{block}{k}_act")(L.BatchNormalization(name=f"{block}{k}_bn")(x))
            y = conv(y, 5, f"{block}{k}_in", 1)
            x = L.Concatenate(name=f"{block}{k}_join")([x, L.Conv2D(3, 3, padding="same", name=f"{block}{k}")(y)])
        x = L.ReLU(name=f"{block}_act")(L.BatchNormalization(name=f"{block}_bn")(x))
        if block == "a":
            x = L.AveragePooling2D(2, name="shrink")(L.Conv2D(6, 1, name="transition")(x))
    return keras.Model(image, _head(x), name="dense_net")


def wide_and_deep() -> keras.Model:
    """wide input ---------------------------------+-> concat -> dense
    deep input -> dense -> dropout -> dense -------+"""
    wide, deep = keras.Input((5,), name="wide"), keras.Input((6,), name="deep")
    x = L.Dense(9, activation="relu", name="deep_1")(L.Normalization(name="scaled")(deep))
    x = L.Dense(7, activation="selu", name="deep_2")(L.AlphaDropout(0.1, name="drop")(x))
    return keras.Model(
        [wide, deep], L.Dense(1, name="head")(L.Concatenate(name="join")([wide, x])), name="wide_and_deep"
    )


def siamese() -> keras.Model:
    """left -> tower -+-> cosine (Dot, normalize) -> dense
    right -> tower +"""
    inner = _image()
    x = L.GlobalMaxPooling2D(name="max")(conv(conv(inner, 5, "t1"), 6, "t2"))
    tower = keras.Model(inner, L.Dense(7, name="embed")(x), name="tower")
    left, right = (keras.Input((8, 8, 3), name=name) for name in ("left", "right"))
    x = L.Dot(axes=1, normalize=True, name="cosine")([tower(left), tower(right)])
    return keras.Model([left, right], L.Dense(1, activation="sigmoid", name="head")(x), name="siamese")


def spectrum() -> keras.Model:
    """1D: separable conv -> crop, pad -> residual of dilated causal convs -> transposed conv -> STFT of each channel"""
    signal = keras.Input((32, 2), name="signal")
    x = L.SeparableConv1D(6, 3, padding="same", name="sep")(signal)
    x = L.ZeroPadding1D(2, name="pad")(L.Cropping1D(2, name="crop")(x))
    y = L.Conv1D(6, 3, dilation_rate=2, padding="causal", activation="tanh", name="dilated")(x)
    x = L.Add(name="sum")([x, y])
    x = L.Conv1DTranspose(4, 2, 2, name="grow")(L.MaxPooling1D(name="pool")(x))
    x = L.STFTSpectrogram(mode="magnitude", frame_length=8, frame_step=4, name="stft")(x)
    return keras.Model(signal, L.Dense(2, name="head")(L.GlobalAveragePooling1D(name="mean")(x)), name="spectrum")


def volumes() -> keras.Model:
    """3D: conv -> pool -> residual of transposed and cropped -> upsampled skip -> concat -> 1x1x1"""
    volume = keras.Input((4, 4, 4, 2), name="volume")
    skip = L.Conv3D(5, 3, padding="same", activation="relu", name="a")(volume)
    x = L.Conv3D(6, 3, padding="same", name="b")(L.MaxPooling3D(name="pool")(skip))
    y = L.Cropping3D(1, name="crop")(L.Conv3DTranspose(6, 3, name="grow")(x))
    x = L.UpSampling3D(name="up")(L.Add(name="sum")([x, y]))
    return keras.Model(volume, L.Conv3D(1, 1, name="head")(L.Concatenate(name="join")([skip, x])), name="volumes")


def read_by_dots() -> keras.Model:
    """query, key, value (1D convs) -> Dot over channels -> softmax over positions -> Dot over positions -> residual"""
    signal = keras.Input((6, 3), name="signal")
    x = L.Conv1D(8, 3, padding="same", name="x")(signal)
    query, key, value = (L.Conv1D(width, 1, name=name)(x) for name, width in (("q", 5), ("k", 5), ("v", 8)))
    scores = L.Softmax(name="weights")(L.Dot(axes=2, name="scores")([query, key]))
    x = L.Add(name="sum")([x, L.Dot(axes=(2, 1), name="mix")([scores, value])])
    return keras.Model(signal, L.Dense(2, name="head")(L.GlobalMaxPooling1D(name="max")(x)), name="read_by_dots")


_RETURNED = "its channels are joined element by element with an input or output of the network"
ZOO: dict[str, Case] = {
    case.build.__name__: case
    for case in (
        # A shuffled tensor has its channels along one axis, so what lands in one place of both halves is one.
        Case(shuffle_net, {"stem": 2, "stem/2": 2, "stem/3": 4, "a_expand": 6, "b_expand": 6}),
        Case(feature_pyramid, {"c3": 6, "c4": 7, "c5": 9, "l5": 5, "shared/tower": 4}),
        Case(
            atrous_pyramid,
            {"stem_conv": 6, "one": 4, "by_2": 5, "by_3": 3, "pooled": 4, "project": 7},
        ),
        Case(
            inception,
            {"stem": 5}
            | {
                f"{b}_{n}": w
                for b in "ab"
                for n, w in (("one", 3), ("three_in", 2), ("three", 4), ("five_in", 2), ("five", 3), ("pooled", 2))
            },
        ),
        Case(
            single_shot,
            {"backbone": 6, "scale_1": 6, "scale_2": 7},
            dict.fromkeys(["box_1", "box_2", "class_1", "class_2"], _RETURNED),
        ),
        Case(
            transposed_u_net,
            {
                "down_1_conv": 4,
                "down_2_conv": 5,
                "bottom_conv": 7,
                "up_2_grow": 5,
                "up_2_conv": 6,
                "up_1_grow": 4,
                "up_1_conv": 5,
            },
        ),
        Case(structures, {"outer": 4, "shared": 5, "inner/gate": 6, "inner/of_a": 7}),
        Case(matryoshka, {"first": 5, "middle/after": 6}),
        Case(thrice, {"first": 6, "block/wide": 9}),
        Case(
            dense_net,
            {"stem": 4, "transition": 6}
            | {f"{b}{k}": 3 for b in "ab" for k in range(3)}
            | {f"{b}{k}_in": 5 for b in "ab" for k in range(3)},
        ),
        Case(wide_and_deep, {"deep_1": 9, "deep_2": 7}),
        Case(siamese, {"tower/t1": 5, "tower/t2": 6, "tower/embed": 7, "cosine": 1}),
        Case(spectrum, {"sep": 6, "grow": 4}),
        Case(volumes, {"a": 5, "b": 6}),
        Case(read_by_dots, {"x": 8, "q": 5}),
    )
}
