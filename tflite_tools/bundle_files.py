"""Texts of a bundle: C source for microcontrollers, and a script that runs the file."""

from __future__ import annotations

import re

_PER_LINE = 16

_EXAMPLE = '''\
"""Runs {file} on an array: python example.py [inputs.npy]

Needs: pip install ai-edge-litert numpy. Without a file it makes up an input, to show that all is well.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

HERE = Path(__file__).resolve().parent
METADATA = json.loads((HERE / "metadata.json").read_text())


def stored(values, detail):
    """Real values as the input stores them."""
    scale, zero_point = detail["quantization"]
    if not scale:
        return values.astype(detail["dtype"])
    ends = np.iinfo(detail["dtype"])
    return np.clip(np.round(values / scale) + zero_point, ends.min, ends.max).astype(detail["dtype"])


def real(values, detail):
    """What is stored as real values."""
    scale, zero_point = detail["quantization"]
    return (values.astype(np.float32) - zero_point) * scale if scale else values


def main():
    interpreter = Interpreter(model_path=str(HERE / "{file}"))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    low, high = METADATA["input_range"] or (0, 1)
    inputs = {{}}
    for name, detail in runner.get_input_details().items():
        shape = tuple(int(n) for n in detail["shape"])
        if len(sys.argv) > 1:
            values = np.load(sys.argv[1]).astype(np.float32).reshape(shape)
        else:
            values = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
        inputs[name] = stored(values, detail)
    details = runner.get_output_details()
    for name, values in runner(**inputs).items():
        values = real(values, details[name])
        print(name, list(values.shape), np.array2string(values.reshape(-1)[:10], precision=4))
        labels = METADATA["labels"]
        if labels and values.size == len(labels):
            print("class:", labels[int(values.argmax())])


if __name__ == "__main__":
    main()
'''


def example_script(file: str) -> str:
    """A script of NumPy and LiteRT alone."""
    return _EXAMPLE.format(file=file)


def c_source(name: str, data: bytes, arena_bytes: int) -> tuple[str, str]:
    """Header and source of the file as an aligned array, as TensorFlow Lite for Microcontrollers wants it.

    Args:
        name: of the file; becomes part of the identifiers.
        data: its content.
        arena_bytes: what its activations need at least; the runtime needs more on top.
    """
    word = re.sub(r"\W", "_", name)
    guard = f"{word.upper()}_MODEL_H_"
    header = (
        f"#ifndef {guard}\n#define {guard}\n\n"
        f"// Activations alone; the interpreter's own structures come on top.\n"
        f"constexpr unsigned int k_{word}_arena_bytes = {arena_bytes};\n"
        f"extern const unsigned int g_{word}_model_size;\n"
        f"extern const unsigned char g_{word}_model[];\n\n#endif  // {guard}\n"
    )
    rows = (data[k : k + _PER_LINE] for k in range(0, len(data), _PER_LINE))
    body = "\n".join("    " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows)
    source = (
        f'#include "{name}_model.h"\n\n'
        f"const unsigned int g_{word}_model_size = {len(data)};\n"
        f"alignas(16) const unsigned char g_{word}_model[] = {{\n{body}\n}};\n"
    )
    return header, source
