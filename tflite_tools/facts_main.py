"""Tells what a .tflite file is made of: bytes by operator and tensor, memory, and who can run it.

Examples:
  Bytes and memory, operator by operator:
    python -m tflite_tools.facts_main --model=net.tflite

  Which operators XNNPACK, Android's GPU delegate, Coral and an Ethos-U leave to the CPU; everything as JSON:
    python -m tflite_tools.facts_main --model=net.tflite --target=all --output=facts.json

  One accelerator, without the table of operators:
    python -m tflite_tools.facts_main --model=net.tflite --target=ethos_u:ethos-u85-256 --noops
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from absl import flags

from tflite_tools import command
from tflite_tools.files import check_writable, write_text

if TYPE_CHECKING:
    from tflite_tools.contents import Contents

_FLAGS = command.new_flags()
_MODEL = flags.DEFINE_string("model", None, "A .tflite file.", flag_values=_FLAGS)
_TARGETS = flags.DEFINE_multi_string(
    "target", [], "Who shall run it: xnnpack, gpu, coral, ethos_u:ACCELERATOR or all; repeatable.", flag_values=_FLAGS
)
_OPS = flags.DEFINE_bool("ops", True, "Print the table of operators.", flag_values=_FLAGS)
_TENSORS = flags.DEFINE_bool("tensors", False, "Print the table of tensors.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write everything as JSON.", flag_values=_FLAGS)


def main(progress: command.Progress) -> str:
    """Reads and asks as the flags say.

    Raises:
        TfliteToolsError: whatever goes wrong.
    """
    path = command.required(_MODEL)
    if _OUTPUT.value:
        check_writable(_OUTPUT.value)
    with progress("Reading"):
        from tflite_tools.contents import read_contents
        from tflite_tools.flatbuffer import read_bytes

        contents = read_contents(path)
        data = read_bytes(path)
    supports = []
    if _TARGETS.value:
        from tflite_tools.support import TARGETS, ask_support

        for target in TARGETS if "all" in _TARGETS.value else _TARGETS.value:
            with progress(f"Asking {target}"):
                supports.append(ask_support(data, target))
    if _OUTPUT.value:
        stored = {"format": "tflite_tools.facts/1", **contents.to_dict()}
        stored["support"] = [support.to_dict() for support in supports]
        write_text(_OUTPUT.value, json.dumps(stored, indent=2) + "\n")
    tables = [_summary(path, contents)]
    tables += [_op_table(contents)] if _OPS.value else []
    tables += [_tensor_table(contents)] if _TENSORS.value else []
    return "\n\n".join([*tables, *map(str, supports)])


def _summary(path: str, contents: Contents) -> str:
    facts = contents.facts
    kinds = ", ".join(f"{kind} {size:,}" for kind, size in contents.constant_bytes_by_kind.items() if size)
    return "\n".join(
        [
            f"{path}: {facts.size_bytes:,} bytes, {facts.weight_bytes:,} of them constants, "
            f"{contents.other_bytes:,} names, scales and tables",
            f"constants by operator: {kinds}",
            f"activations: {facts.peak_bytes:,} bytes alive at the peak, an arena of {facts.arena_bytes:,}",
        ]
    )


def _op_table(contents: Contents) -> str:
    from tflite_tools.profile_tables import text_table

    headings = ("op", "operator", "version", "output", "constants", "writes", "alive", "name")
    rows = [
        (
            str(op.index),
            op.kind,
            str(op.version),
            f"{op.output_dtype}{list(op.output_shape)}",
            f"{op.constant_bytes:,}",
            f"{op.output_bytes:,}",
            f"{op.live_bytes:,}" + (" <" if op.live_bytes == contents.facts.peak_bytes else ""),
            op.name[:60],
        )
        for op in contents.ops
    ]
    return text_table(headings, rows, left=(1, 3, 7))


def _tensor_table(contents: Contents) -> str:
    from tflite_tools.profile_tables import text_table

    rows = [
        (
            str(tensor.index),
            "constant" if tensor.is_constant else "activation",
            f"{tensor.dtype}{list(tensor.shape)}",
            f"{tensor.num_bytes:,}",
            "" if tensor.op is None else str(tensor.op),
            tensor.name[:60],
        )
        for tensor in contents.tensors
    ]
    return text_table(("tensor", "kind", "type", "bytes", "op", "name"), rows, left=(1, 2, 5))


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_facts", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
