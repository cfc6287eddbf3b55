"""The examples as users start them: real processes, real data, few epochs."""

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_qcqp
from keras_qcqp import problem_io

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


def test_custom_layer(run_python):
    process = run_python(EXAMPLES / "custom_layer.py")
    assert process.returncode == 0, process.stderr
    reason = "no rule for layer class EqualizedConv2D; add one with keras_qcqp.register_rule(EqualizedConv2D, rule)"
    assert f"'equalized' (EqualizedConv2D): {reason}" in process.stdout
    assert "frozen: nothing but the network's inputs and outputs" in process.stdout
    assert float(re.search(r"differ by at most (\S+)\.$", process.stdout).group(1)) < 1e-6
    assert re.search(r"equalized +EqualizedConv2D +12 -> \d+", process.stdout)


def test_api_tour(run_python):
    process = run_python(EXAMPLES / "api_tour.py")
    assert (process.returncode, process.stderr) == (0, "")
    text = process.stdout
    assert "scale: no rule for layer class ChannelScale" in text
    assert text.count("OPTIMAL: objective") == 3
    assert "frozen: nothing but the network's inputs and outputs" in text
    assert text.endswith("largest difference: 0.0\n")


@pytest.fixture(scope="module")
def paper():
    """The module `examples/paper_instance.py`."""
    spec = importlib.util.spec_from_file_location("paper_instance", EXAMPLES / "paper_instance.py")
    module = sys.modules["paper_instance"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("depth", "binaries", "constraints", "products", "macs"),
    [
        (20, 1_027, 664, 29_744, 40_551_040),
        (32, 1_699, 1_136, 51_248, 68_862_592),
        (56, 3_043, 2_080, 94_256, 125_485_696),
    ],
)
def test_paper_instance_has_the_size_of_the_papers(paper, depth, binaries, constraints, products, macs):
    network = paper.cifar_resnet(paper.random_kernels(depth))
    problem = paper.paper_problem(network, 0.46)
    nodes, last = len(network.importance), 64
    equalities = 16 + 32  # v = u where a shortcut brings zeros: one constraint there, two needs here
    assert sum(m.size for m in problem.masks) + last == binaries  # and v of the last node, which nothing consumes
    at_least_one = 2 * (nodes + 1)
    assert sum(len(n.index) for n in problem.needs) - equalities + 2 * last + at_least_one == constraints
    assert sum(p.values.size for p in problem.pairs) == products
    assert network.conv_macs + network.dense_macs == macs


def test_paper_instance_limits_convolutions_and_classifier_together(paper):
    network = paper.cifar_resnet(paper.random_kernels(20))
    limit = paper.paper_problem(network, 0.3).limits["macs"]
    assert limit == 40_551_040 * 3 // 10 - 640  # 640 MACs of the classifier are charged in full
    assert paper.paper_problem(network, 1.0).limits["macs"] == network.conv_macs


def test_paper_instance_has_unit_norm_importance(paper):
    network = paper.cifar_resnet(paper.random_kernels(20))
    assert [float(np.linalg.norm(w)) for w in network.importance] == pytest.approx([1.0] * 19)
    total, _ = keras_qcqp.evaluate(problem := paper.paper_problem(network, 0.5), problem.everything())
    assert total == pytest.approx(631.28, rel=2e-3)  # of other Kaiming-normal weights
    assert paper.importance(np.zeros((3, 3, 2, 2))).sum() == 0


@pytest.mark.parametrize(("split", "first"), [(True, 8), (False, 0)])
def test_paper_instance_lands_shortcuts_where_the_zeros_leave_room(paper, split, first):
    """v9 sums 32 produced channels and 16 that arrive at `first`, ..., `first + 15`."""
    problem = paper.paper_problem(paper.cifar_resnet(paper.random_kernels(20), split), 0.5)
    names = [m.name for m in problem.masks]
    keep = problem.everything()
    keep[names.index("u9")][:] = np.arange(32) == 31
    told = [line for line in keras_qcqp.violations(problem, keep) if line.startswith("mask v9")]
    alone = [j for j in range(31) if not first <= j < first + 16]
    assert told == [f"mask v9: channel {j} is kept without its u9" for j in alone]


def test_paper_instance_refuses_two_additions_into_one_node(paper):
    network = paper.cifar_resnet(paper.random_kernels(20))
    twice = dataclasses.replace(network, additions=[paper.Addition(1, 3), paper.Addition(1, 3)])
    with pytest.raises(keras_qcqp.ProblemError, match="one to each"):
        paper.paper_problem(twice, 0.5)


def test_paper_instance_solves_the_smallest_network(run_python, tmp_path):
    saved = tmp_path / "problem.npz"
    process = run_python(EXAMPLES / "paper_instance.py", "--depth=8", "--fraction=0.6", f"--output={saved}")
    assert process.returncode == 0, process.stderr
    assert "  macs: " in process.stdout
    assert re.search(r"objective \d+", process.stdout)
    problem = problem_io.load(saved)
    assert [m.name for m in problem.masks] == "image u1 u2 u3 v3 u4 u5 v5 u6 u7".split()


def test_paper_instance_reads_trained_weights(paper, shared_file):
    kernels = paper.keras_kernels(str(shared_file("models/resnet20_cifar10_padA.keras")))
    problem = paper.paper_problem(paper.cifar_resnet(kernels), 0.46)
    assert keras_qcqp.evaluate(problem, problem.everything()) == (
        pytest.approx(576.842, abs=1e-3),
        {"macs": 40_550_400},
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--depth=21", "error: A CIFAR ResNet has 6 n + 2 layers (8, 14, 20, ...), got 21."),
        ("--weights=missing.keras", "error: Cannot read model 'missing.keras': no such file."),
        ("0.5", "unexpected argument '0.5'; give options as --name=value"),
    ],
)
def test_paper_instance_refuses(run_python, option, message):
    process = run_python(EXAMPLES / "paper_instance.py", option)
    assert process.returncode == 1
    assert message in process.stdout + process.stderr
