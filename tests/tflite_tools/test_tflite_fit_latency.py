"""`tflite_fit_latency` as users start it."""

from __future__ import annotations

import json

from tflite_tools import LatencyModel

COMMAND = ("-m", "tflite_tools.fit_latency_main")


def test_a_latency_file_is_written_and_measurements_are_gone(run_python, fixture_model, tmp_path):
    output = tmp_path / "latency.json"
    process = run_python(
        *COMMAND,
        f"--model={fixture_model('conv3x3_in32_out17_int8')}",
        f"--output={output}",
        "--seconds=0.2",
        "--num_held_out=2",
        "--resume",
    )
    assert (process.returncode, process.stderr) == (0, "")
    model = LatencyModel.load(output)
    assert str(model) == process.stdout.rstrip("\n") and model.settings["seconds"] == 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["latency.json"]


def test_wrong_usage_and_foreign_measurements_end_in_one_line(run_python, fixture_model, tmp_path):
    (tmp_path / "x.json.samples").write_text(json.dumps({"format": "?"}))
    model = f"--model={fixture_model('conv3x3_in32_out17_int8')}"
    for arguments, code, message in (
        ((model,), 2, "the flag --output is required"),
        ((model, f"--output={tmp_path}/no/x.json"), 1, "does not exist. Create it first."),
        ((model, f"--output={tmp_path}/x.json", "--resume"), 1, "holds no measurements that could be resumed"),
        ((model, f"--output={tmp_path}/y.json", "--device=phone"), 1, "There is no device 'phone'."),
        ((model, f"--output={tmp_path}/y.json", "--seconds=-1"), 1, "makes no sense"),
    ):
        process = run_python(*COMMAND, *arguments)
        (line,) = process.stderr.splitlines()
        assert process.returncode == code and message in line and process.stdout == ""


def test_help_needs_nothing_heavy(run_python):
    code = "import sys; from tflite_tools import fit_latency_main as m; sys.argv = ['x', '--help']\n"
    code += "try:\n    m.run()\nfinally:\n    assert not {'numpy', 'ai_edge_litert'} & set(sys.modules)"
    process = run_python("-c", code)
    assert process.returncode == 0 and "--multiple" in process.stdout and "ethos_u:ethos-u55-128" in process.stdout
