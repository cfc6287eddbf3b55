"""Prunes a .keras model to hard budgets.

Examples:
  python -m keras_qcqp.prune_main --model=in.keras --budget=macs=0.5 --output=out.keras
  python -m keras_qcqp.prune_main --model=in.keras --budget=macs=0.5,params=100000 --output=out.keras \\
      --width_multiple=8 --min_keep=0.25 --plan_output=plan.json --report_output=report.txt \\
      --plot_output=graph.svg
  python -m keras_qcqp.prune_main --model=in.keras --budget=macs=0.5 --output=out.keras --data=data.npz
  python -m keras_qcqp.prune_main --model=in.keras --budget=macs=0.5 --output=out.keras --data=data.npz \\
      --importance=fisher --recovery=least_squares,bias --num_samples=4096
  python -m keras_qcqp.prune_main --model=in.keras --budget='macs=0.5,stage3/*:params=0.4' --output=out.keras
  python -m keras_qcqp.prune_main --model=in.keras --budget=tflite_bytes=100000,peak_bytes=0.5 --recipe=int8 \\
      --residual=auto --output=out.keras
  python -m keras_qcqp.prune_main --model=in.keras --budget=macs=0.5 --output=out.keras \\
      --width_multiple='stage1/*=4,*=8' --max_keep='head_conv=64' --frozen='stem*' --together=conv_a,conv_b
  python -m keras_qcqp.prune_main --model=in.keras --budget=latency_ms=50%@latency.json --output=out.keras \\
      --verify --width_multiple=auto   # latency.json: what tflite_fit_latency measured
  python -m keras_qcqp.prune_main --model=in.keras --plan=plan.json --output=out.keras   # apply a plan again

A budget in (0, 1] is a fraction of the original, above 1 it is absolute. Known: macs, flops, params, weight_bytes,
activation_bytes, peak_bytes, tflite_bytes; the first five also for some layers, pattern:name=value. Milliseconds on a
device are latency_ms=4.0@latency.json, or latency_ms=50%@latency.json, once for each device. A width rule is a
number, or pattern=number,... of which the most specific pattern counts and '*' means all other layers.
--report_output ends in .txt or .json, --plot_output in .svg.

The data file holds the array x_train, preprocessed as the model wants it, and y_train where the criterion needs labels.
With it, importance is measured and kernels are fitted anew ("reconstruction", "least_squares"): no training, some
minutes, and most of the accuracy stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from absl import flags

from keras_qcqp.command_line import Command, UsageError, teller
from keras_qcqp.data_files import load_examples
from keras_qcqp.errors import FileError
from keras_qcqp.files import check_writable, replacing
from keras_qcqp.limits.budget import Budget
from keras_qcqp.limits.width_text import parse_rule, parse_set
from keras_qcqp.limits.widths import Widths
from keras_qcqp.model_io import load_model, save_model

_FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", "", "The .keras (or .h5) file to prune.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", "", "Where to write the smaller .keras file.", flag_values=_FLAGS)
_BUDGET = flags.DEFINE_string("budget", None, "Limits such as macs=0.5,params=100000.", flag_values=_FLAGS)
_PLAN = flags.DEFINE_string("plan", None, "A plan to apply, instead of --budget.", flag_values=_FLAGS)
_PLAN_OUTPUT = flags.DEFINE_string("plan_output", None, "Where to write the plan (JSON).", flag_values=_FLAGS)
_REPORT_OUTPUT = flags.DEFINE_string(
    "report_output", None, "Where to write the report (.txt or .json).", flag_values=_FLAGS
)
_PLOT_OUTPUT = flags.DEFINE_string(
    "plot_output", None, "Where to draw the network, before and after (.svg).", flag_values=_FLAGS
)
_DATA = flags.DEFINE_string("data", None, "An .npz file with x_train and perhaps y_train.", flag_values=_FLAGS)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1024, "How many examples to look at.", 1, flag_values=_FLAGS)
_IMPORTANCE = flags.DEFINE_string(
    "importance",
    None,
    "Importance criterion; by default reconstruction with --data, magnitude without.",
    flag_values=_FLAGS,
)
_RECOVERY = flags.DEFINE_list(
    "recovery",
    None,
    "What to do without training: least_squares, bias, batch_norm; by default least_squares with --data.",
    flag_values=_FLAGS,
)
_RESIDUAL = flags.DEFINE_string(
    "residual",
    "tied",
    "Channels of additions: tied (operands and sum keep the same), union (each its own), auto (the better of both).",
    flag_values=_FLAGS,
)
_GROUP_CONV = flags.DEFINE_string(
    "group_conv",
    "channels",
    "What grouped convolutions lose: channels (the same ones of every group) or groups (whole ones).",
    flag_values=_FLAGS,
)
_RECIPE = flags.DEFINE_string(
    "recipe",
    "float32",
    "Number format of the .tflite file for peak_bytes and tflite_bytes: float32 or int8.",
    flag_values=_FLAGS,
)
_MIN_KEEP = flags.DEFINE_string(
    "min_keep", "0.25", "Least channels of layers: a count, or a fraction in (0, 1).", flag_values=_FLAGS
)
_MAX_KEEP = flags.DEFINE_string(
    "max_keep", None, "Most channels of layers: a count, or a fraction in (0, 1).", flag_values=_FLAGS
)
_WIDTH_MULTIPLE = flags.DEFINE_string(
    "width_multiple",
    "1",
    "Kept widths are multiples of this, or unchanged; auto or auto@latency.json.",
    flag_values=_FLAGS,
)
_FROZEN = flags.DEFINE_list("frozen", [], "Patterns of layers that keep all output channels.", flag_values=_FLAGS)
_TOGETHER = flags.DEFINE_multi_string(
    "together",
    [],
    "Layers that keep the same channels, conv_a,conv_b, or channels that live or die as one, conv_c:0-3,conv_d:4+6. "
    "May be given several times.",
    flag_values=_FLAGS,
)
_VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Measure the result on the device of each latency limit, and prune again until the limit is met.",
    flag_values=_FLAGS,
)
_STRICT = flags.DEFINE_bool(
    "strict", False, "Refuse the model if any part of it would have to be frozen.", flag_values=_FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the search.", flag_values=_FLAGS)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Threads of the exact search.", flag_values=_FLAGS)
_TIME_LIMIT_S = flags.DEFINE_float(
    "time_limit_s", 60.0, "Wall seconds after which the search starts nothing new.", flag_values=_FLAGS
)
_QUIET = flags.DEFINE_bool("quiet", False, "No progress and no report on the terminal.", flag_values=_FLAGS)


def _require_fitting_flags() -> None:
    if (_BUDGET.value is None) == (_PLAN.value is None):
        raise UsageError("Give either --budget (what to reach) or --plan (what to apply).")
    if _PLAN.value is not None and (_PLAN_OUTPUT.value or _REPORT_OUTPUT.value):
        raise UsageError("--plan_output and --report_output come with --budget, not with --plan.")
    if _PLAN.value is not None and (_DATA.value or _RECOVERY.value):
        raise UsageError("--data and --recovery come with --budget, not with --plan.")


def _run() -> None:
    _require_fitting_flags()
    if not _OUTPUT.value.endswith(".keras"):
        raise FileError(f"--output must end in .keras, got '{_OUTPUT.value}'.")
    if _REPORT_OUTPUT.value and not _REPORT_OUTPUT.value.endswith((".txt", ".json")):
        raise FileError(f"--report_output must end in .txt or .json, got '{_REPORT_OUTPUT.value}'.")
    if _PLOT_OUTPUT.value and not _PLOT_OUTPUT.value.endswith(".svg"):
        raise FileError(f"--plot_output must end in .svg, got '{_PLOT_OUTPUT.value}'.")
    given = (_OUTPUT.value, _PLAN_OUTPUT.value, _REPORT_OUTPUT.value, _PLOT_OUTPUT.value)
    targets = [path for path in given if path]
    if len({os.path.realpath(path) for path in targets}) < len(targets):
        raise FileError("--output, --plan_output, --report_output and --plot_output must be different files.")
    if _BUDGET.value is not None:
        Budget.of(_BUDGET.value)  # a typing error should not wait for the model
        _widths()
    for path in targets:
        check_writable(path)
    say = teller(_QUIET.value)
    say(f"loading {_MODEL.value}")
    model = load_model(_MODEL.value)
    if _PLAN.value is not None:
        _apply(model, _PLAN.value)
    else:
        _prune(model, say)
    say(f"wrote {_OUTPUT.value}")


def _apply(model: Any, path: str) -> None:
    from keras_qcqp.plan import Plan
    from keras_qcqp.rebuilder import rebuild

    plan = Plan.load(path)
    smaller = rebuild(model, plan)
    with contextlib.ExitStack() as outputs:
        _draw(outputs, model, plan)
        save_model(smaller, _OUTPUT.value)


def _prune(model: Any, say: Callable[[str], None]) -> None:
    from keras_qcqp.pruning import prune

    result = prune(
        model,
        _BUDGET.value or "",
        data=_examples(),
        importance=_IMPORTANCE.value,
        recovery=_RECOVERY.value,
        num_samples=_NUM_SAMPLES.value,
        widths=_widths(),
        residual=_RESIDUAL.value,
        group_conv=_GROUP_CONV.value,
        recipe=_RECIPE.value,
        strict=_STRICT.value,
        verify=_VERIFY.value,
        seed=_SEED.value,
        num_workers=_NUM_WORKERS.value,
        time_limit_s=_TIME_LIMIT_S.value,
        progress=say,
    )
    with contextlib.ExitStack() as outputs:  # all are written before the first is renamed
        result.model.save(outputs.enter_context(replacing(_OUTPUT.value)))
        if _PLAN_OUTPUT.value:
            _write(outputs, _PLAN_OUTPUT.value, result.plan.to_json())
        if _REPORT_OUTPUT.value:
            as_json = _REPORT_OUTPUT.value.endswith(".json")
            _write(outputs, _REPORT_OUTPUT.value, result.report.to_json() if as_json else f"{result.report}\n")
        _draw(outputs, model, result.plan)
    if not _QUIET.value:
        print(result.report)


def _examples() -> Any:
    """Inputs, with labels if there are any; None without a data file."""
    if not _DATA.value:
        return None
    arrays = load_examples(_DATA.value, ("x_train",))
    return (arrays["x_train"], arrays["y_train"]) if "y_train" in arrays else arrays["x_train"]


def _widths() -> Widths:
    numbers = {flag.name: flag.value for flag in (_MIN_KEEP, _MAX_KEEP, _WIDTH_MULTIPLE) if flag.value is not None}
    rules = {name: parse_rule(name, text) for name, text in numbers.items()}
    return Widths.of({**rules, "frozen": _FROZEN.value, "together": [parse_set(text) for text in _TOGETHER.value]})


def _draw(outputs: contextlib.ExitStack, model: Any, plan: Any) -> None:
    from keras_qcqp.drawing import plot

    if _PLOT_OUTPUT.value:
        _write(outputs, _PLOT_OUTPUT.value, plot(model, plan).svg)


def _write(outputs: contextlib.ExitStack, path: str, text: str) -> None:
    outputs.enter_context(replacing(path)).write_text(text, encoding="utf-8")


_COMMAND = Command(__doc__ or "", _FLAGS, (_MODEL, _OUTPUT), _run)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    return _COMMAND.main(argv)


def run() -> None:
    """Console entry point."""
    _COMMAND.start()


if __name__ == "__main__":
    run()
