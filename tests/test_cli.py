"""`python -m keras_qcqp.prune_main` as users start it; errors that need no process of their own call its `main`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import networks
import numpy as np
import pytest

from keras_qcqp import measure, prune_main
from keras_qcqp.plan import Plan
from keras_qcqp.report import Report

ROOT = Path(__file__).resolve().parents[1]

MODULE = ("-m", "keras_qcqp.prune_main")
REAL = "models/mlperf_kws_dscnn.keras"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a tiny model, a cut-off one, one with a frozen layer and a plan for no model here."""
    folder = tmp_path_factory.mktemp("inputs")
    networks.shake(networks.chain()).save(folder / "tiny.keras")
    (folder / "cut.keras").write_bytes((folder / "tiny.keras").read_bytes()[:3000])
    (folder / "text.keras").write_text("not a zip")
    random = np.random.default_rng(0)
    np.savez(folder / "data.npz", x_train=random.normal(size=(32, 8, 8, 3)).astype("f4"), y_train=np.arange(32) % 4)
    np.savez(folder / "labels.npz", y_train=np.arange(32))
    np.savez(folder / "wide.npz", x_train=np.zeros((2, 9, 9, 3)))
    plan = {"format": "keras_qcqp.plan", "version": 1, "model": "elsewhere", "layers": {}}
    (folder / "other.json").write_text(json.dumps(plan))
    (folder / "cut.json").write_text(json.dumps(plan)[:-3])
    return folder


@pytest.fixture
def command(inputs, tmp_path, monkeypatch, capfd):
    """Calls `main` with `{in}` and `{out}` replaced; returns status, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        filled = [a.replace("{in}", str(inputs)).replace("{out}", str(tmp_path)) for a in arguments]
        status = prune_main.main(["prune_main", *filled])
        return status, *capfd.readouterr()

    return call


@pytest.fixture(scope="module")
def real_run(run_python, shared_file, tmp_path_factory):
    """The main job on a trained model, all outputs asked for."""
    folder = tmp_path_factory.mktemp("real")
    process = run_python(
        *MODULE,
        f"--model={shared_file(REAL)}",
        "--budget=macs=0.5,params=0.6",
        "--width_multiple=4",
        "--min_keep=0.25",
        "--seed=3",
        f"--output={folder / 'out.keras'}",
        f"--plan_output={folder / 'plan.json'}",
        f"--report_output={folder / 'report.json'}",
    )
    return process, folder


def test_real_model_meets_its_budgets(real_run, shared_file):
    process, folder = real_run
    assert process.returncode == 0, process.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["out.keras", "plan.json", "report.json"]
    before = measure(keras.models.load_model(shared_file(REAL)))
    smaller = keras.models.load_model(folder / "out.keras")
    after = measure(smaller)
    assert 0.4 * before["macs"] < after["macs"] <= 0.5 * before["macs"]
    assert after["params"] == smaller.count_params() <= 0.6 * before["params"]
    plan = Plan.load(folder / "plan.json")
    for name, layer in plan.layers.items():
        for size, index in zip(layer.out_size, layer.out_index, strict=True):
            assert len(index) == size or (len(index) % 4 == 0 and len(index) >= size / 4), name


def test_real_model_shows_progress_and_report(real_run):
    """Progress on standard error and nothing else there; the report on standard output."""
    process, folder = real_run
    lines = process.stderr.splitlines()
    assert lines[0].startswith("loading ")
    assert lines[-1] == f"wrote {folder / 'out.keras'}"
    steps = r"(ascent|bound|restarts|window \d+|exact model of the whole): objective"
    expected = rf"loading|\d+ coupled masks|{steps}|rebuilding|wrote"
    assert [line for line in lines if not re.match(expected, line)] == []
    assert process.stdout.startswith("Pruned 'mlperf_kws_dscnn' to macs=0.5,params=0.6\n")
    report = json.loads((folder / "report.json").read_text())
    assert report["asked"] == "macs=0.5,params=0.6"
    assert {row["resource"] for row in report["budgets"] if row["limit"]} == {"macs", "params"}
    assert all(row["after"] <= row["limit"] for row in report["budgets"] if row["limit"])
    assert report["solution"].endswith("seed 3")


def test_plan_applied_again_gives_identical_weights(real_run, command, shared_file, tmp_path):
    _, folder = real_run
    arguments = (f"--model={shared_file(REAL)}", f"--plan={folder / 'plan.json'}", "--output={out}/again.keras")
    status, output, errors = command(*arguments)
    assert (status, output) == (0, "")
    assert errors.splitlines() == [f"loading {shared_file(REAL)}", f"wrote {tmp_path / 'again.keras'}"]
    first = keras.models.load_model(folder / "out.keras").weights
    again = keras.models.load_model(tmp_path / "again.keras").weights
    assert [w.path for w in first] == [w.path for w in again]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(np.array(a), np.array(b)), a.path


def test_quiet_says_nothing_and_the_text_report_is_the_usual_one(command, tmp_path):
    common = ("--model={in}/tiny.keras", "--budget=macs=0.6")
    status, output, errors = command(*common, "--output={out}/a.keras", "--report_output={out}/a.txt", "--quiet")
    assert (status, output, errors) == (0, "", "")
    status, output, _ = command(*common, "--output={out}/b.keras")
    assert status == 0
    assert output == (tmp_path / "a.txt").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.keras", "a.txt", "b.keras"]


def test_the_network_is_drawn_for_a_budget_and_for_a_plan(command, tmp_path):
    """Both drawings show the same: what the network was, and what the plan leaves of it."""
    common = ("--model={in}/tiny.keras", "--quiet")
    asked = ("--budget=macs=0.6", "--output={out}/a.keras", "--plan_output={out}/a.json", "--plot_output={out}/a.svg")
    assert command(*common, *asked) == (0, "", "")
    again = ("--plan={out}/a.json", "--output={out}/b.keras", "--plot_output={out}/b.svg")
    assert command(*common, *again) == (0, "", "")
    drawing = (tmp_path / "a.svg").read_text()
    assert drawing == (tmp_path / "b.svg").read_text()
    kept = len(Plan.load(tmp_path / "a.json")["a_conv"].out_index[0])
    assert kept < 6 and f">6 \u2192 {kept}</text>" in drawing
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.keras", "a.svg", "b.keras", "b.svg"]


def test_all_rules_can_be_given(command, tmp_path):
    status, output, errors = command(
        "--model={in}/tiny.keras",
        "--budget=macs=0.9,b_*:params=0.9,tflite_bytes=0.95",
        "--recipe=int8",
        "--residual=auto",
        "--min_keep=a_*=1,*=2",
        "--max_keep=hidden=5",
        "--width_multiple=a_conv=2,*=1",
        "--frozen=b_conv",
        "--together=a_conv:0-1",
        "--together=hidden:1-2+6",
        "--output={out}/a.keras",
        "--plan_output={out}/a.json",
    )
    assert status == 0, errors
    assert output.startswith("Pruned 'chain' to macs=0.9,tflite_bytes=0.95,b_*:params=0.9\n")
    assert "tflite_bytes [B int8]" in output and "params[b_*] [params]" in output
    assert "b_conv (Conv2D), 5 channels: asked for" in output
    layers = Plan.load(tmp_path / "a.json").layers
    kept = {name: set(layers[name].out_index[0]) for name in ("a_conv", "b_conv", "hidden")}
    assert len(kept["a_conv"]) % 2 == 0 and len(kept["b_conv"]) == 5 and len(kept["hidden"]) <= 5
    assert kept["a_conv"] >= {0, 1} or not kept["a_conv"] & {0, 1}
    assert kept["hidden"] >= {1, 2, 6} or not kept["hidden"] & {1, 2, 6}


def test_an_old_output_is_replaced(command, tmp_path):
    (tmp_path / "a.keras").write_text("old")
    assert command("--model={in}/tiny.keras", "--budget=macs=0.6", "--output={out}/a.keras", "--quiet")[0] == 0
    assert isinstance(keras.models.load_model(tmp_path / "a.keras"), keras.Model)


@pytest.mark.parametrize("how", [(), ("--importance=fisher", "--recovery=bias,batch_norm", "--num_samples=20")])
def test_examples_measure_and_recover(command, tmp_path, how):
    common = ("--model={in}/tiny.keras", "--budget=macs=0.7", "--output={out}/a.keras", "--time_limit_s=1")
    status, _, errors = command(*common, "--data={in}/data.npz", *how)
    assert status == 0
    assert ("measuring 'a_conv'" in errors, "re-estimating 'a_bn'" in errors) == (not how, bool(how))
    assert "fitting 'b_conv', 2 of 4" in errors
    assert keras.models.load_model(tmp_path / "a.keras").output_shape == (None, 4)


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_shows_examples_and_all_flags(run_python, flag):
    """At once: nothing heavy is imported. Also when other flags are missing or wrong."""
    code = f"""
import sys
sys.argv = ["keras_qcqp_prune", "--nonsense", {flag!r}]
from keras_qcqp.prune_main import run
try:
    run()
finally:
    assert not any(m in sys.modules for m in ("tensorflow", "keras", "ortools", "numpy"))
"""
    process = run_python("-c", code)
    assert (process.returncode, process.stderr) == (0, "")
    assert "python -m keras_qcqp.prune_main --model=in.keras --budget=macs=0.5 --output=out.keras" in process.stdout
    flags = """model output budget plan plan_output report_output plot_output data num_samples importance recovery
        residual recipe min_keep
        max_keep width_multiple frozen together verify strict seed num_workers time_limit_s quiet"""
    for name in flags.split():
        assert f"\n  --{name}: " in process.stdout


GOOD = ("--model={in}/tiny.keras", "--budget=macs=0.5", "--output={out}/out.keras")
WRONG_USAGE = [
    ((), "The flag --model is required. See --help."),
    (GOOD[:1], "The flag --output is required. See --help."),
    ((GOOD[0], GOOD[2]), "Give either --budget (what to reach) or --plan (what to apply). See --help."),
    ((*GOOD, "--plan=x.json"), "Give either --budget (what to reach) or --plan (what to apply). See --help."),
    ((*GOOD, "--nope=1"), "Unknown command line flag 'nope'. See --help."),
    ((*GOOD, "--widthmultiple=1"), "Unknown command line flag 'widthmultiple'. Did you mean: width_multiple ?. See"),
    ((*GOOD, "--seed=abc"), "flag --seed=abc: invalid literal for int() with base 10: 'abc'. See --help."),
    ((*GOOD, "in.keras"), "Unexpected argument 'in.keras'. Every input is a flag, --name=value. See --help."),
    (
        (GOOD[0], GOOD[2], "--plan=x.json", "--report_output={out}/r.txt"),
        "--plan_output and --report_output come with --budget, not with --plan. See --help.",
    ),
    (
        (GOOD[0], GOOD[2], "--plan=x.json", "--data=x.npz"),
        "--data and --recovery come with --budget, not with --plan. See --help.",
    ),
    ((*GOOD, "--num_samples=0"), "flag --num_samples=0: "),
]
REFUSED_AT_ONCE = [
    ((GOOD[0], GOOD[1], "--output={out}/out.h5"), "--output must end in .keras, got '{out}/out.h5'."),
    ((*GOOD, "--report_output={out}/r.html"), "--report_output must end in .txt or .json, got '{out}/r.html'."),
    ((*GOOD, "--plot_output={out}/r.png"), "--plot_output must end in .svg, got '{out}/r.png'."),
    ((*GOOD, "--plot_output={out}/no/r.svg"), "Cannot write '{out}/no/r.svg': the directory '{out}/no' does not exist"),
    (
        (*GOOD, "--plan_output={out}/a.svg", "--plot_output={out}/a.svg"),
        "--output, --plan_output, --report_output and --plot_output must be different files.",
    ),
    (
        (GOOD[0], GOOD[1], "--output={out}/no/out.keras"),
        "Cannot write '{out}/no/out.keras': the directory '{out}/no' does not exist. Create it first.",
    ),
    (
        (*GOOD, "--plan_output={out}/no/p.json"),
        "Cannot write '{out}/no/p.json': the directory '{out}/no' does not exist. Create it first.",
    ),
    ((*GOOD, "--report_output=/proc/r.txt"), "Cannot write '/proc/r.txt': no file can be created in '/proc' ("),
    (
        (GOOD[0], "--budget=mac=0.5", GOOD[2]),
        "Unknown budget 'mac'. Did you mean 'macs'? Known: activation_bytes, flops, latency_ms, macs, params, ",
    ),
    ((GOOD[0], "--budget=macs=nan", GOOD[2]), "Budget macs=nan must be finite and above 0"),
    ((GOOD[0], "--budget=", GOOD[2]), "The budget is empty."),
    ((GOOD[0], "--budget=a*:peak_bytes=0.5", GOOD[2]), "Budget a*:peak_bytes: 'peak_bytes' is not a sum over layers."),
    ((*GOOD, "--min_keep=few"), "min_keep: cannot read 'few'. Write a number, or pattern=number,... with '*' for all"),
    ((*GOOD, "--min_keep=1.5"), "min_keep must be a count >= 1 or a fraction in (0, 1), or 0, got 1.5."),
    ((*GOOD, "--max_keep=1.0"), "max_keep must be a count >= 1 or a fraction in (0, 1) (leave it out for no limit), "),
    ((*GOOD, "--width_multiple=0"), "width_multiple must be an integer >= 1, got 0."),
    ((*GOOD, "--width_multiple=a=4,b=2.5"), "width_multiple of 'b' must be an integer >= 1, got 2.5."),
    ((*GOOD, "--together=a:0-x"), "together: cannot read 'a:0-x'. Write conv_a,conv_b for layers that keep the same"),
    ((*GOOD, "--together=a"), "together: a set is a list of two or more layers, "),
    (("--model={in}/none.keras", *GOOD[1:]), "Cannot read model '{in}/none.keras': no such file."),
]
REFUSED_AFTER_READING = [
    (("--model={in}/cut.keras", *GOOD[1:]), "'{in}/cut.keras' is not a readable Keras model: "),
    (("--model={in}/text.keras", *GOOD[1:]), "'{in}/text.keras' is not a readable Keras model: "),
    ((GOOD[0], "--budget=macs=0.0001", GOOD[2]), "No selection meets the budget. macs: 1 MAC asked, but the smallest"),
    ((GOOD[0], "--budget=macs=1e12", GOOD[2]), "Budget macs=1e+12 is met already: the model has "),
    ((*GOOD, "--data={in}/none.npz"), "Cannot read data '{in}/none.npz': No such file or directory. Write it with"),
    ((*GOOD, "--data={in}/text.keras"), "Cannot read data '{in}/text.keras': it is no .npz archive. Write it with"),
    ((*GOOD, "--data={in}/labels.npz"), "Data '{in}/labels.npz' has no array 'x_train'. It must hold x_train."),
    ((*GOOD, "--data={in}/wide.npz"), "Input 'image' has shape (None, 8, 8, 3), the data has (2, 9, 9, 3)."),
    ((*GOOD, "--recovery=bias"), "recovery=bias looks at examples: give data=inputs, or recovery=()."),
    (
        (*GOOD, "--importance=fisher"),
        "importance='fisher' looks at examples: give data=inputs or data=(inputs, labels),",
    ),
    ((*GOOD, "--importance=magnitud"), "Unknown importance 'magnitud'. Did you mean 'magnitude'? Known: activation, "),
    ((*GOOD, "--residual=both"), "residual='both' is unknown. Known: auto, tied, union."),
    ((*GOOD, "--recipe=int4"), "Unknown recipe 'int4'. "),
    ((*GOOD, "--min_keep=a_cnov=1"), "min_keep: 'a_cnov' matches no layer. Did you mean 'a_conv' or "),
    (
        (*GOOD, "--max_keep=a_conv=1", "--min_keep=2"),
        "The width rules contradict each other for the 6 coupled channels",
    ),
    ((*GOOD, "--frozen=zz*"), "frozen: 'zz*' matches no layer. "),
    ((*GOOD, "--together=a_conv,b_conv"), "together: layers keep the same channels only if they have equally many, "),
    ((GOOD[0], "--budget=zz*:macs=0.5", GOOD[2]), "Budget zz*:macs=0.5: 'zz*' matches no layer. "),
    ((*GOOD, "--seed=-1"), "seed must be a whole number >= 0, got -1."),
    ((GOOD[0], GOOD[2], "--plan={in}/none.json"), "Cannot read plan '{in}/none.json': No such file or directory."),
    ((GOOD[0], GOOD[2], "--plan={in}/cut.json"), "The plan is not JSON: "),
    (
        (GOOD[0], GOOD[2], "--plan={in}/other.json"),
        "The plan was made for model 'elsewhere' and does not fit 'chain': layer 'a_conv' (Conv2D) is not in the plan.",
    ),
]


def assert_one_error_line(text: str, message: str) -> None:
    """The last line is the error; before it come progress lines, if any."""
    *progress, line = text.splitlines()
    assert line.startswith(f"error: {message}"), line
    assert all(re.match(r"loading |\d+ coupled masks", p) for p in progress), progress


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [(a, m, 2) for a, m in WRONG_USAGE] + [(a, m, 1) for a, m in REFUSED_AT_ONCE + REFUSED_AFTER_READING],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_failure_is_one_line_and_leaves_no_file(command, inputs, tmp_path, arguments, message, status):
    found, output, errors = command(*arguments)
    assert (found, output) == (status, "")
    assert_one_error_line(errors, message.replace("{in}", str(inputs)).replace("{out}", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--nope"], 2), (["--model=none.keras", "--budget=macs=0.5", "--output=out.keras"], 1)],
    ids=["wrong flag", "no model"],
)
def test_failure_ends_the_process_with_its_status(run_python, arguments, status):
    """absl's own reaction to a wrong flag would be three lines."""
    process = run_python(*MODULE, *arguments)
    assert (process.returncode, process.stdout) == (status, "")
    assert_one_error_line(process.stderr, "")


def test_a_corrupt_model_fails_without_noise(run_python, inputs, tmp_path):
    """Neither a traceback nor TensorFlow's greetings surround the error."""
    arguments = (f"--model={inputs / 'cut.keras'}", "--budget=macs=0.5", f"--output={tmp_path / 'out.keras'}")
    process = run_python(*MODULE, *arguments)
    assert (process.returncode, process.stdout) == (1, "")
    assert_one_error_line(process.stderr, f"'{inputs / 'cut.keras'}' is not a readable Keras model: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (ZeroDivisionError("a\n  b"), 1, "error: Internal error, please report it: ZeroDivisionError: a b"),
        (PermissionError(13, "Permission denied", "x"), 1, "error: [Errno 13] Permission denied: 'x'"),
    ],
    ids=["interrupt", "bug", "system"],
)
def test_whatever_else_happens_is_one_line_too(command, monkeypatch, tmp_path, failure, status, line):
    def fail(path):
        raise failure

    monkeypatch.setattr(prune_main, "load_model", fail)
    found, output, errors = command(*GOOD, "--quiet")
    assert (found, output, errors) == (status, "", f"{line}\n")
    assert list(tmp_path.iterdir()) == []


def test_no_output_is_written_unless_all_are(command, monkeypatch, tmp_path):
    """The report cannot be written: neither the model nor the plan, long finished, appears."""

    def no_report(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Report, "to_json", no_report)
    status, _, errors = command(
        *GOOD, "--plan_output={out}/p.json", "--plot_output={out}/g.svg", "--report_output={out}/r.json"
    )
    assert status == 1
    assert errors.splitlines()[-1].endswith("No space left on device.")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_saving_keeps_the_old_output(command, monkeypatch, tmp_path):
    """The half-written file goes, the old one stays."""

    def save(self, path):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    (tmp_path / "out.keras").write_text("old")
    monkeypatch.setattr(keras.Model, "save", save)
    status, _, errors = command(*GOOD)
    assert status == 1
    assert errors.splitlines()[-1] == f"error: Cannot write '{tmp_path / 'out.keras'}': No space left on device."
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("out.keras", "old")]


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
@pytest.mark.parametrize("module", ["keras_qcqp.prune_main", "tflite_tools.convert_main", "tflite_tools.profile_main"])
def test_a_reader_that_leaves_early_gets_no_traceback(module):
    """`... --help | head -1`"""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()
