"""`python -m keras_qcqp.finetune_main`: its files, its words, its exit statuses."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from finetune_run import network, samples

from keras_qcqp import finetune_main
from keras_qcqp.finetuning import tune

ROOT = Path(__file__).resolve().parents[1]
GOOD = ("--model={in}/small.keras", "--data={in}/data.npz", "--output={out}/out.keras", "--epochs=1")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a tiny model and data whole, without labels, with half of the test set, and with objects."""
    folder = tmp_path_factory.mktemp("inputs")
    network().save(folder / "small.keras")
    x, y = samples()
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    np.savez(folder / "x.npz", x_train=x)
    np.savez(folder / "half.npz", x_train=x, y_train=y, x_test=x)
    np.savez(folder / "objects.npz", x_train=np.array([{}], dtype=object), y_train=y)
    np.save(folder / "one.npy", x)
    return folder


@pytest.fixture
def command(inputs, tmp_path, capfd):
    """Calls `main` with `{in}` and `{out}` replaced; returns status, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        filled = [a.replace("{in}", str(inputs)).replace("{out}", str(tmp_path)) for a in arguments]
        status = finetune_main.main(["finetune_main", *filled])
        return status, *capfd.readouterr()

    return call


def test_the_main_job_and_the_same_again(command, tmp_path, inputs):
    """Progress on standard error, the result alone on standard output; the checkpoint is taken up, quietly."""
    more = (
        "--teacher={in}/small.keras",
        "--checkpoint_dir={out}/run",
        "--history_output={out}/history.json",
        "--distillation_weight=0.3",
        "--temperature=2",
    )
    status, output, errors = command(*GOOD, *more)
    assert status == 0, errors
    lines = errors.splitlines()
    assert lines[0] == f"loading {inputs / 'small.keras'}" and lines[-1] == f"wrote {tmp_path / 'out.keras'}"
    assert len(lines) == 3 and lines[1].startswith("epoch 1/1: accuracy ")
    assert output.startswith("finished 1 epochs: val_accuracy ")
    history = json.loads((tmp_path / "history.json").read_text())
    assert history["monitor"] == "val_accuracy" and history["best_epoch"] == 1 and not history["interrupted"]
    assert history["last"] == history["history"]["val_accuracy"][-1]
    assert isinstance(keras.models.load_model(tmp_path / "out.keras"), keras.Model)
    assert command(*GOOD, *more, "--quiet") == (0, "", "")
    assert json.loads((tmp_path / "history.json").read_text()) == history


def test_with_a_budget_it_prunes_in_steps(command, tmp_path):
    more = ("--budget=params=0.6", "--steps=2", "--history_output={out}/history.json")
    status, output, errors = command(*GOOD, *more)
    assert status == 0, errors
    assert "step 2 of 2" in errors and output.startswith("step 1: params ")
    told = json.loads((tmp_path / "history.json").read_text())
    assert [step["usage"]["params"] <= step["limits"]["params"] for step in told] == [True, True]
    model = keras.models.load_model(tmp_path / "out.keras")
    assert model.count_params() == told[1]["usage"]["params"] < told[0]["usage"]["params"]


def test_ctrl_c_writes_the_best_so_far(command, tmp_path, monkeypatch):
    def interrupted(model, data, **given):
        result = finetune(model, data, **given)
        return dataclasses.replace(result, interrupted=True)

    finetune = tune.finetune
    monkeypatch.setattr(tune, "finetune", interrupted)
    status, output, errors = command(*GOOD)
    assert (status, output) == (130, "")
    last = errors.splitlines()[-1]
    assert last.startswith("error: interrupted after 1 epochs: val_accuracy ")
    assert last.endswith(f"; wrote the best model so far to '{tmp_path / 'out.keras'}'")
    assert (tmp_path / "out.keras").is_file()


FAILURES = [
    ((), 2, "The flag --model is required. See --help."),
    (GOOD[:1], 2, "The flag --data is required. See --help."),
    ((*GOOD, "--nope"), 2, "Unknown command line flag 'nope'. See --help."),
    ((*GOOD, "x"), 2, "Unexpected argument 'x'. Every input is a flag, --name=value. See --help."),
    ((*GOOD[:2], "--output={out}/out.h5"), 1, "--output must end in .keras, got '{out}/out.h5'."),
    ((*GOOD, "--history_output={out}/h.txt"), 1, "--history_output must end in .json, got '{out}/h.txt'."),
    ((*GOOD, "--history_output={out}/no/h.json"), 1, "Cannot write '{out}/no/h.json': the directory '{out}/no' does"),
    ((*GOOD, "--budget=macs=0.5", "--teacher={in}/small.keras"), 2, "With --budget the teacher is --model itself: "),
    ((*GOOD, "--budget=cams=0.5"), 1, "Unknown budget 'cams'. "),
    ((*GOOD, "--budget=macs=0.5", "--steps=0"), 1, "steps must be a whole number >= 1, got 0."),
    ((*GOOD, "--epochs=0"), 1, "epochs must be a whole number >= 1, got 0."),
    ((*GOOD, "--mixed_precision=int8"), 1, "mixed_precision='int8' is unknown. "),
    ((*GOOD, "--data={in}/no.npz"), 1, "Cannot read data '{in}/no.npz': No such file or directory. Write it with np."),
    ((*GOOD, "--data={in}/small.keras"), 1, "Data '{in}/small.keras' has no array 'x_train'. It must hold x_train"),
    ((*GOOD, "--data={in}/x.npz"), 1, "Data '{in}/x.npz' has no array 'y_train'. It must hold x_train and y_train."),
    ((*GOOD, "--data={in}/half.npz"), 1, "Data '{in}/half.npz' has no array 'y_test'. "),
    ((*GOOD, "--data={in}/objects.npz"), 1, "Cannot read data '{in}/objects.npz': Object arrays cannot be loaded "),
    ((*GOOD, "--data={in}/one.npy"), 1, "Cannot read data '{in}/one.npy': it is no .npz archive. Write it with "),
    ((*GOOD, "--model={in}/no.keras"), 1, "Cannot read model '{in}/no.keras': no such file."),
    ((*GOOD, "--teacher={in}/no.keras"), 1, "Cannot read model '{in}/no.keras': no such file."),
]


@pytest.mark.parametrize(("arguments", "status", "message"), FAILURES, ids=lambda v: str(v)[-60:])
def test_failure_is_one_line_and_leaves_no_file(command, inputs, tmp_path, arguments, status, message):
    found, output, errors = command(*arguments)
    assert (found, output) == (status, "")
    line = errors.splitlines()[-1]
    expected = message.replace("{in}", str(inputs)).replace("{out}", str(tmp_path))
    assert line.startswith(f"error: {expected}"), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (ZeroDivisionError("a\n  b"), 1, "error: Internal error, please report it: ZeroDivisionError: a b"),
    ],
)
def test_whatever_else_happens_is_one_line_too(command, monkeypatch, failure, status, line):
    def fail(path):
        raise failure

    monkeypatch.setattr(finetune_main, "load_model", fail)
    assert command(*GOOD, "--quiet") == (status, "", f"{line}\n")


def test_help_shows_examples_and_all_flags(run_python):
    code = """
import sys
sys.argv = ["keras_qcqp_finetune", "--nonsense", "--help"]
from keras_qcqp.finetune_main import run
try:
    run()
finally:
    assert not any(m in sys.modules for m in ("tensorflow", "keras", "ortools", "numpy"))
"""
    process = run_python("-c", code)
    assert (process.returncode, process.stderr) == (0, "")
    assert (
        "python -m keras_qcqp.finetune_main --model=pruned.keras --data=data.npz --output=tuned.keras" in process.stdout
    )
    flags = """model data output teacher budget steps epochs learning_rate batch_size warmup_epochs weight_decay
        distillation_weight temperature keep mixed_precision seed checkpoint_dir resume tensorboard_dir history_output
        quiet"""
    for name in flags.split():
        assert f"\n  --{name}: " in process.stdout


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_reader_that_leaves_early_gets_no_traceback():
    """`... --help | head -1`"""
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_qcqp.finetune_main", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()
