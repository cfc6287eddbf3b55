"""Prunes a CIFAR-10 network and says what that costs in accuracy, before any fine-tuning.

Examples:
  python examples/prune_cifar10.py --model=resnet20.keras --output=pruned.keras
  python examples/prune_cifar10.py --model=resnet20.keras --output=pruned.keras --budget=macs=0.5,params=0.8 \\
      --importance=fisher --residual=union --data_dir=cifar10 --report_output=report.txt
  python examples/prune_cifar10.py --model=resnet20.keras --num_samples=0 --importance=magnitude   # without examples

The model takes normalised images as `examples/cifar10.py` makes them, or with --raw_pixels 0..255. Training images
measure what each channel is worth and fit the kernels that are left anew: no training, about a minute.
`finetune_cifar10.py` trains.
"""

from __future__ import annotations

import sys

import cifar10
from absl import app, flags

import keras_qcqp
from keras_qcqp.files import write_text
from keras_qcqp.model_io import load_model, save_model

_MODEL = flags.DEFINE_string("model", None, "The .keras file to prune.", required=True)
_OUTPUT = flags.DEFINE_string("output", "pruned.keras", "Where to write the smaller model.")
_BUDGET = flags.DEFINE_string("budget", "macs=0.5", "Limits such as macs=0.5,params=0.8.")
_IMPORTANCE = flags.DEFINE_string("importance", None, "Importance criterion; none: the best for the data at hand.")
_RECOVERY = flags.DEFINE_list("recovery", None, "What follows: least_squares, bias, batch_norm; none: least_squares.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1024, "Training images to look at; 0 looks at weights only.", 0)
_RESIDUAL = flags.DEFINE_string("residual", "tied", "Channels of additions: tied, union or auto.")
_REPORT_OUTPUT = flags.DEFINE_string("report_output", None, "Where to write the report.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder with CIFAR-10 packs; empty downloads it.")
_NUM_TEST = flags.DEFINE_integer("num_test", 0, "Only so many test images; 0 for all.")


def main(argv: list[str]) -> int:
    """Prunes and measures; returns the exit status."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; give options as --name=value")
    try:
        model = load_model(_MODEL.value)
        data = cifar10.load(_DATA_DIR.value, num_train=max(_NUM_SAMPLES.value, 1), num_test=_NUM_TEST.value)
        result = prune(model, data.train)
        save_model(result.model, _OUTPUT.value)
        if _REPORT_OUTPUT.value:
            write_text(_REPORT_OUTPUT.value, f"{result.report}\n")
    except (keras_qcqp.QcqpError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(result.report)
    before, after = (cifar10.accuracy(m, data.test) for m in (model, result.model))
    print(
        f"\naccuracy on {len(data.test.y)} test images: {before:.2%} before, {after:.2%} after; wrote {_OUTPUT.value}"
    )
    return 0


def prune(model: cifar10.keras.Model, train: cifar10.Images) -> keras_qcqp.PruneResult:
    """The one call that this example is about."""
    return keras_qcqp.prune(
        model,
        _BUDGET.value,
        data=(train.x, train.y) if _NUM_SAMPLES.value else None,
        num_samples=max(_NUM_SAMPLES.value, 1),
        importance=_IMPORTANCE.value,
        recovery=_RECOVERY.value,
        residual=_RESIDUAL.value,
        progress=lambda line: print(line, file=sys.stderr),
    )


if __name__ == "__main__":
    app.run(main)
