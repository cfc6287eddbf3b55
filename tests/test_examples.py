"""The examples as users start them: real processes, real data, few epochs."""

import json
from pathlib import Path

import pytest

import keras_qcqp

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples"
FILES = """original.keras pruned.keras plan.json report.txt summary.json original_float32.tflite original_int8.tflite
    pruned_float32.tflite pruned_int8.tflite""".split()


@pytest.fixture(scope="module")
def digits(run_python, tmp_path_factory):
    """(finished process, its output folder) of a short run to 30 % of the MACs."""
    folder = tmp_path_factory.mktemp("digits") / "not" / "there" / "yet"
    options = ("--macs=0.3", "--epochs=1", "--finetune_epochs=1", f"--output_dir={folder}")
    process = run_python(EXAMPLES / "digits.py", *options)
    assert process.returncode == 0, process.stderr
    return process, folder


@pytest.fixture(scope="module")
def summary(digits):
    return json.loads((digits[1] / "summary.json").read_text())


def test_digits_leaves_all_files(digits):
    assert sorted(path.name for path in digits[1].iterdir()) == sorted(FILES)


def test_digits_meets_the_budget(summary):
    assert summary["macs_limit"] == summary["original"]["macs"] * 3 // 10
    assert 0.9 * summary["macs_limit"] < summary["pruned"]["macs"] <= summary["macs_limit"]


def test_digits_shrinks_every_file(digits, summary):
    for recipe in ("float32", "int8"):
        before, after = ((digits[1] / f"{name}_{recipe}.tflite").stat().st_size for name in ("original", "pruned"))
        assert after < before
        assert (before, after) == tuple(summary[name][f"{recipe}_bytes"] for name in ("original", "pruned"))


def test_digits_learns_and_int8_keeps_what_was_learned(summary):
    for name in ("original", "pruned"):
        figures = summary[name]
        assert figures["keras_accuracy"] > 0.8
        assert figures["int8_accuracy"] == pytest.approx(figures["keras_accuracy"], abs=0.03)


def test_digits_prints_the_table_and_tells_each_stage(digits, summary):
    process, folder = digits
    cells = [f"{summary[name]['macs']:,}" for name in ("original", "pruned")]
    assert f"| MACs {' ' * 33}| {cells[0]} | {cells[1]} |" in process.stdout
    assert process.stdout in (folder / "report.txt").read_text()
    assert list(summary["seconds"]) == ["train", "prune", "fine-tune", "convert", "measure"]
    told = [line for line in process.stderr.splitlines() if not line.startswith("  ")]
    assert told == [f"{stage} ..." for stage in summary["seconds"]]  # and no word of TensorFlow


def test_digits_plan_rebuilds_the_pruned_network(digits, summary):
    import keras

    original = keras.models.load_model(digits[1] / "original.keras")
    again = keras_qcqp.rebuild(original, keras_qcqp.Plan.load(digits[1] / "plan.json"))
    assert keras_qcqp.measure(again)["macs"] == summary["pruned"]["macs"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--macs=1.5", "flag --macs=1.5: 1.5 is not a number in the range [0.1, 1.0]"),
        ("--output_dir=setup.py", "error: [Errno 17] File exists: 'setup.py'"),
        ("0.5", "unexpected argument '0.5'; give options as --name=value"),
    ],
)
def test_digits_refuses_before_it_trains(run_python, monkeypatch, option, message):
    monkeypatch.chdir(REPOSITORY)
    process = run_python(EXAMPLES / "digits.py", option)
    assert process.returncode == 1
    assert message in process.stdout + process.stderr  # absl explains wrong usage on standard output
    assert "train ..." not in process.stderr


def test_digits_help_has_examples(run_python):
    text = run_python(EXAMPLES / "digits.py", "--help").stdout
    assert "python examples/digits.py --macs=0.25" in text
    for flag in ("--output_dir", "--macs", "--epochs", "--finetune_epochs", "--seed"):
        assert f"\n  {flag}: " in text


def test_api_tour(run_python):
    process = run_python(EXAMPLES / "api_tour.py")
    assert (process.returncode, process.stderr) == (0, "")
    text = process.stdout
    assert "scale: no rule for layer class ChannelScale" in text
    assert text.count("OPTIMAL: objective") == 3
    assert "frozen: nothing but the network's inputs and outputs" in text
    assert text.endswith("largest difference: 0.0\n")
