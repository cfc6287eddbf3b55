"""The program `benchmark_model`, which is in no Python package: where it is looked for, and what to fetch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tflite_tools.errors import DeviceError

VARIABLE = "TFLITE_TOOLS_BINARIES"
_PLACE = "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest/"
# ABI -> (name of Google's nightly build or None, target of `bazel build`, machine number in the ELF header)
_ABIS: Mapping[str, tuple[str | None, str, int]] = {
    "arm64-v8a": ("android_aarch64_benchmark_model", "android_arm64", 183),
    "armeabi-v7a": ("android_arm_benchmark_model", "android_arm", 40),
    "x86_64": (None, "android_x86_64", 62),
    "x86": (None, "android_x86", 3),
}


def find_binary(abi: str, given: str = "") -> Path:
    """The file for an ABI: the one given, else $TFLITE_TOOLS_BINARIES/<abi>/benchmark_model.

    Raises:
        DeviceError: there is none, with what to fetch and where to put it; or it is for another ABI.
    """
    place = Path(os.environ.get(VARIABLE) or Path.home() / ".tflite_tools") / abi / "benchmark_model"
    path = Path(given) if given else place
    if not path.is_file():
        raise DeviceError(f"No benchmark_model for {abi}: '{path}' does not exist. {_advice(abi, place)}")
    with open(path, "rb") as stream:
        head = stream.read(20)
    if head[:2] == b"#!":  # a script that starts it
        return path
    machine = int.from_bytes(head[18:20], "little") if head[:4] == b"\x7fELF" else None
    expected = _ABIS[abi][2] if abi in _ABIS else machine
    if machine is None or machine != expected:
        names = [name for name, (_, _, number) in _ABIS.items() if number == machine]
        kind = f"for {names[0]}" if names else "no program for Android"
        raise DeviceError(f"'{path}' is {kind}, but the device needs {abi}. {_advice(abi, place)}")
    return path


def _advice(abi: str, place: Path) -> str:
    if abi not in _ABIS:
        return f"Build benchmark_model of TensorFlow Lite for {abi} and put it there."
    name, target, _ = _ABIS[abi]
    source = f"Fetch {_PLACE}{name}" if name else "Google offers no build"
    build = f"bazel build -c opt --config={target} //tensorflow/lite/tools/benchmark:benchmark_model"
    return f"{source} (or {build}) and put it at {place}, or name the file: android:SERIAL,binary=FILE."
