"""Asks TensorFlow's analyzer which operators Android's GPU delegate takes, in a process of its own.

`python -m tflite_tools.gpu_worker` with {"path"} on standard input; writes {"known", "version", "nodes", "reasons"} to
the file request["answers"]. The analyzer prints text for people only; only the sentences of its verdict are read.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from typing import Any

_COMPATIBLE = "Your model looks compatible with GPU delegate"
_ISSUES = re.compile(r"has GPU delegate compatibility issues at nodes ([\d, ]+)")
_OPERATOR = re.compile(r"^\s*Op#(\d+) ")
_WARNING = re.compile(r"^\s*GPU COMPATIBILITY WARNING: (?!Subgraph)(.+)$")


def main() -> None:
    """See above."""
    request = json.load(sys.stdin)
    import tensorflow as tf

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        tf.lite.experimental.Analyzer.analyze(model_path=request["path"], gpu_compatibility=True)
    with open(request["answers"], "w", encoding="utf-8") as answers:
        print(json.dumps({"version": tf.__version__, **read_verdict(text.getvalue())}), file=answers)


def read_verdict(text: str) -> dict[str, Any]:
    """{"known": is there a verdict, "nodes": operators left to the CPU, "reasons": {operator: why}}."""
    issues = _ISSUES.search(text)
    nodes = [number.strip() for number in issues[1].split(",") if number.strip()] if issues else []
    reasons: dict[str, str] = {}
    operator = ""
    for line in text.splitlines():
        if match := _OPERATOR.match(line):
            operator = match[1]
        elif (match := _WARNING.match(line)) and operator:
            reasons[operator] = match[1].strip()
    return {"known": bool(issues) or _COMPATIBLE in text, "nodes": nodes, "reasons": reasons}


if __name__ == "__main__":
    main()
