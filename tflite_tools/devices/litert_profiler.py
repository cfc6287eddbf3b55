"""Times of single operators from the profiler of LiteRT's C library, which the wheel brings along.

The library is the one of the `ai-edge-litert` wheel; its functions are called through ctypes, since the Python
interpreter of that wheel has no profiler. It is the C interface of a moving library: `host_worker` calls it in a
process of its own, only in versions that were tried, and what it answers is checked.

Source: the headers `litert/c/litert_*.h` of github.com/google-ai-edge/LiteRT.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

KERNELS = {"xnnpack": "delegate", "builtin": "builtin"}  # our name of a delegate -> the library's kernel mode
_TRIED = ((2, 3), (3, 0))  # at least, below
_BUILTIN, _XNNPACK = 2, 8  # types of events; the others describe the run as a whole
_CPU, _WRITE = 1, 1
_RANKED_TENSOR_TYPE = ctypes.c_int32 * 18  # element type, rank and flags, 8 sizes, 8 strides
_SIZES = slice(2, 10)


class ProfilerMissingError(Exception):
    """The library is of another version, lacks a function, or refuses a call."""


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("resident", "total", "in_use")]


class _Event(ctypes.Structure):
    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory_before", _Memory),
        ("memory_after", _Memory),
        ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


class LitertProfiler:
    """A model that is ready to run under the profiler. Lives as long as its process; nothing is given back.

    Args:
        path: the `.tflite`.
        inputs: one array for each input of the signature, in its order.
        num_threads: of XNNPACK.
        delegate: a key of `KERNELS`.

    Raises:
        ProfilerMissingError: see there.
    """

    def __init__(self, path: str, inputs: Sequence[np.ndarray], num_threads: int, delegate: str) -> None:
        self._library = _load()
        self._texts: list[Any] = []  # read by the library later
        environment, model, options = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._model, self._profiler = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("CreateEnvironment", 0, None, ctypes.byref(environment))
        self._call("CreateModelFromFile", environment, path.encode(), ctypes.byref(model))
        self._call("CreateOptions", ctypes.byref(options))
        self._call("SetOptionsHardwareAccelerators", options, _CPU)
        self._add(options, "xnnpack", f'num_threads = {num_threads}\nkernel_mode = "{KERNELS[delegate]}"\n')
        self._add(options, "runtime_options_string", "enable_profiling = true\n")
        self._call("CreateCompiledModel", environment, model, options, ctypes.byref(self._model))
        self._call("CompiledModelGetProfiler", self._model, ctypes.byref(self._profiler))
        signature = ctypes.c_void_p()
        self._call("GetModelSignature", model, ctypes.c_size_t(0), ctypes.byref(signature))
        self._inputs = self._buffers(environment, signature, "Input")
        self._outputs = self._buffers(environment, signature, "Output")
        for buffer, values in zip(self._inputs, inputs, strict=True):
            self._fill(ctypes.c_void_p(buffer), np.ascontiguousarray(values))

    def run(self) -> None:
        """One inference."""
        zero, ins, outs = ctypes.c_size_t(0), self._inputs, self._outputs
        self._call(
            "RunCompiledModel", self._model, zero, ctypes.c_size_t(len(ins)), ins, ctypes.c_size_t(len(outs)), outs
        )

    def record(self, runs: int) -> list[tuple[str, int, str, int]]:
        """(delegate, index, kind, microseconds) of every operator of every run, in order.

        An operator of "builtin" is node `index` of the main graph; XNNPACK counts its own, which differ.
        """
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)
        for _ in range(runs):
            self.run()
        self._call("StopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("GetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._call("GetProfilerEvents", self._profiler, count, events)
        names = {_BUILTIN: "builtin", _XNNPACK: "xnnpack"}
        return [(names[e.type], e.index, e.tag.decode(), e.elapsed_us) for e in events if e.type in names]

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, f"LiteRt{name}")
        except AttributeError:
            raise ProfilerMissingError(f"the library has no function LiteRt{name}") from None
        function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            raise ProfilerMissingError(f"LiteRt{name} returned status {status}")

    def _add(self, options: ctypes.c_void_p, identifier: str, toml: str) -> None:
        handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(toml.encode())
        keep = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)  # Python owns the text
        self._texts += [text, keep]
        address = ctypes.cast(text, ctypes.c_void_p)
        self._call("CreateOpaqueOptions", identifier.encode(), address, keep, ctypes.byref(handle))
        self._call("AddOpaqueOptions", options, handle)

    def _buffers(self, environment: ctypes.c_void_p, signature: ctypes.c_void_p, kind: str) -> Any:
        count = ctypes.c_size_t()
        self._call(f"GetNumSignature{kind}s", signature, ctypes.byref(count))
        found = []
        for number in range(count.value):
            tensor, needs, buffer = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
            ranked, index = _RANKED_TENSOR_TYPE(), ctypes.c_size_t(number)
            self._call(f"GetSignature{kind}TensorByIndex", signature, index, ctypes.byref(tensor))
            self._call("GetRankedTensorType", tensor, ranked)
            ranked[_SIZES] = [abs(size) for size in ranked[_SIZES]]  # a free batch is -1; it is run as 1
            self._call(
                f"GetCompiledModel{kind}BufferRequirements", self._model, ctypes.c_size_t(0), index, ctypes.byref(needs)
            )
            self._call("CreateManagedTensorBufferFromRequirements", environment, ranked, needs, ctypes.byref(buffer))
            found.append(buffer.value)
        return (ctypes.c_void_p * len(found))(*found)

    def _fill(self, buffer: ctypes.c_void_p, values: np.ndarray) -> None:
        size, address = ctypes.c_size_t(), ctypes.c_void_p()
        self._call("GetTensorBufferSize", buffer, ctypes.byref(size))
        if size.value < values.nbytes:
            raise ProfilerMissingError(f"an input has {size.value} bytes, expected {values.nbytes}")
        self._call("LockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
        ctypes.memmove(address, values.tobytes(), values.nbytes)
        self._call("UnlockTensorBuffer", buffer)


def _load() -> ctypes.CDLL:
    version = metadata.version("ai-edge-litert")
    release = tuple(int(part) for part in version.split(".")[:2])
    if not _TRIED[0] <= release < _TRIED[1]:
        raise ProfilerMissingError(f"ai-edge-litert {version} was not tried (2.3 or newer, below 3)")
    spec = util.find_spec("ai_edge_litert")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path()
    for name in ("libLiteRt.so", "libLiteRt.dylib", "libLiteRt.dll"):
        if (folder / name).is_file():
            return ctypes.CDLL(str(folder / name))
    raise ProfilerMissingError(f"the wheel ai-edge-litert {version} brings no libLiteRt")
