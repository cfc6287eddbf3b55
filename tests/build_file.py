"""Writes BUILD anew from what the modules import.

python -m tests.build_file --write
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.test_build import ROOT, imports, modules

_HEAD = """\
# One py_library for each module; deps are the rules of the house. Written by tests/build_file.py, held by tests.

load("@rules_python//python:defs.bzl", "py_binary", "py_library")

package(default_visibility = ["//visibility:public"])

licenses(["notice"])
"""


def build_file() -> str:
    """All targets in the order of their names."""
    known = modules()
    return "\n".join([_HEAD, *(_target(name, known) for name in sorted(known))])


def _target(name: str, known: dict[str, Path]) -> str:
    path = str(known[name].relative_to(ROOT))
    binary = name.endswith("_main")
    deps = sorted(imports(known[name]) & (set(known) - {"keras_qcqp", "tflite_tools", name}))
    lines = [f"py_{'binary' if binary else 'library'}(", f'    name = "{name}",', f'    srcs = ["{path}"],']
    lines += [f'    main = "{path}",'] if binary else []
    if deps:
        lines += ["    deps = [", *(f'        ":{dep}",' for dep in deps), "    ],"]
    return "\n".join([*lines, ")", ""])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        (ROOT / "BUILD").write_text(build_file(), encoding="utf-8")
    else:
        print(build_file(), end="")
