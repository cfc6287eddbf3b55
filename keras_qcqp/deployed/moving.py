"""Lowerings of layers that move, pool, pad or re-arrange."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_qcqp.deployed.program import Value
from keras_qcqp.deployed.site import Site

Lowering = Callable[[Site], int]


def reshape(site: Site, x: int, label: str, value: Value) -> int:
    """A reshape to the shape of `value`; none if it has it already."""
    if site.value(x).shape == value.shape:
        return x
    return site.emit("RESHAPE", label, (x,), value, constants=(site.index(f"{label}/shape", len(value.shape)),))


def squeezed(value: Value) -> Value:
    """A one-dimensional signal as an image of height one."""
    axis = None if value.axis is None else value.axis + 1
    return dataclasses.replace(value, shape=(1, *value.shape), axis=axis)


def unsqueezed(site: Site, x: int, label: str) -> int:
    """Makes a one-dimensional signal an image of height one."""
    return reshape(site, x, label, squeezed(site.value(x)))


def whole_reshape(site: Site) -> int:
    """Flatten and Reshape; Flatten of `channels_first` moves the channels to the end before."""
    x = site.inputs[0]
    if site.config.get("data_format") == "channels_first" and len(site.value(x).shape) > 2:
        x = site.emit("TRANSPOSE", "transpose", (x,), site.value(x), constants=(site.index("transpose/perm", 4),))
    return reshape(site, x, "Reshape", site.result())


def pooling(kind: str, label: str) -> Lowering:
    """Pooling with a window; in one dimension between two reshapes."""

    def lowering(site: Site) -> int:
        (x,), result = site.inputs, site.result()
        if len(result.shape) == 4:
            return site.emit(kind, f"{label}2d" if kind.startswith("MAX") else label, (x,))
        if len(result.shape) > 4:
            return site.opaque((x,))
        y = site.emit(kind, f"{label}1d", (unsqueezed(site, x, f"{label}1d/ExpandDims"),), squeezed(result))
        return reshape(site, y, f"{label}1d/Squeeze", result)

    return lowering


def reducing(kind: str, label: str) -> Lowering:
    """A reduction to one value for each channel."""

    def lowering(site: Site) -> int:
        count = max(len(site.value(site.inputs[0]).shape) - 2, 1)
        axes = site.index(f"{label}/reduction_indices", count, f"reduced {count}")
        return site.emit(kind, label, site.inputs, constants=(axes,))

    return lowering


def padding(site: Site) -> int:
    """Zero padding."""
    if site.value(site.inputs[0]).shape == site.result().shape:
        return site.inputs[0]
    return site.emit("PAD", "Pad", site.inputs, constants=(site.index("Pad/paddings", 2 * len(site.result().shape)),))


def slicing(site: Site) -> int:
    """Cropping."""
    rank = len(site.result().shape)
    ends = tuple(site.index(f"strided_slice/stack_{k}", rank) for k in range(3))
    return site.emit("STRIDED_SLICE", "strided_slice", site.inputs, constants=ends)


def transposing(site: Site) -> int:
    """A permutation of the axes."""
    axes = site.index("transpose/perm", len(site.result().shape))
    return site.emit("TRANSPOSE", "transpose", site.inputs, constants=(axes,))


def resizing(site: Site) -> int:
    """Bilinear resizing is one operator."""
    if site.config.get("interpolation") != "bilinear" or site.config.get("antialias"):
        return site.opaque(site.inputs)
    if site.config.get("crop_to_aspect_ratio") or site.config.get("pad_to_aspect_ratio"):
        return site.opaque(site.inputs)
    return site.emit("RESIZE_BILINEAR", "resize/ResizeBilinear", site.inputs, constants=(site.index("resize/size", 2),))


def upsampling(site: Site) -> int:
    """UpSampling: by repetition along one axis after the other, or bilinear."""
    if site.config.get("interpolation", "nearest") != "nearest":
        return resizing(site)
    (x,), result = site.inputs, site.result()
    shape = site.value(x).shape
    for axis in range(1, len(shape) - 1):
        rows = result.shape[axis] // shape[axis]
        split = (*shape[: axis + 1], 1, *shape[axis + 1 :])
        tiled = (*shape[: axis + 1], rows, *shape[axis + 1 :])
        shape = (*shape[:axis], result.shape[axis], *shape[axis + 1 :])
        label = f"Repeat_{axis - 1}" if axis > 1 else "Repeat"
        x = reshape(site, x, f"{label}/ExpandDims", _like(result, split))
        repeats = site.index(f"{label}/Tile/multiples", len(tiled))
        x = site.emit("TILE", f"{label}/Tile", (x,), _like(result, tiled), constants=(repeats,))
    return reshape(site, x, "Repeat/Reshape", result)


def _like(result: Value, shape: tuple[int, ...]) -> Value:
    """A tensor of another shape with the same channels at the end."""
    return dataclasses.replace(result, shape=shape, axis=None if result.axis is None else len(shape) - 1)


def _every(name: str, *dimensions: int) -> list[Any]:
    return [getattr(keras.layers, name.format(n)) for n in dimensions]


MOVING: dict[type, Lowering] = {
    **dict.fromkeys(_every("MaxPooling{}D", 1, 2, 3), pooling("MAX_POOL_2D", "MaxPool")),
    **dict.fromkeys(_every("AveragePooling{}D", 1, 2, 3), pooling("AVERAGE_POOL_2D", "AvgPool")),
    **dict.fromkeys(_every("GlobalAveragePooling{}D", 1, 2, 3), reducing("MEAN", "Mean")),
    **dict.fromkeys(_every("GlobalMaxPooling{}D", 1, 2, 3), reducing("REDUCE_MAX", "Max")),
    **dict.fromkeys(_every("ZeroPadding{}D", 1, 2, 3), padding),
    **dict.fromkeys(_every("Cropping{}D", 1, 2, 3), slicing),
    **dict.fromkeys(_every("UpSampling{}D", 1, 2), upsampling),
    keras.layers.Resizing: resizing,
    keras.layers.Flatten: whole_reshape,
    keras.layers.Reshape: whole_reshape,
    keras.layers.Permute: transposing,
}
