"""The two programs as users start them: real files, real processes."""

import json
import os
import stat

import numpy as np
import pytest

from tflite_tools.flatbuffer import read_facts
from tflite_tools.profiles import Profile

CONVERT = ("-m", "tflite_tools.convert_main")
PROFILE = ("-m", "tflite_tools.profile_main", "--rounds=2", "--repeats=2")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, small_cnn, images):
    folder = tmp_path_factory.mktemp("commands")
    small_cnn.save(folder / "net.keras")
    np.save(folder / "samples.npy", images)
    np.save(folder / "few.npy", images[:20])
    np.save(folder / "flat.npy", images.reshape(80, -1))
    (folder / "cut.keras").write_bytes((folder / "net.keras").read_bytes()[:900])
    (folder / "cut.tflite").write_bytes(b"\x1c\0\0\0TFL3 and no more")
    return folder


def assert_fails(process, code, message):
    """One line, naming program and problem; nothing else anywhere."""
    assert process.returncode == code, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert message in line


def test_convert_to_int8(run_python, workspace):
    output = workspace / "net_int8.tflite"
    process = run_python(
        *CONVERT,
        f"--model={workspace / 'net.keras'}",
        "--recipe=int8",
        f"--representative_data={workspace / 'few.npy'}",
        f"--output={output}",
    )
    assert process.returncode == 0, process.stderr
    facts = read_facts(output)
    assert facts.inputs[0].dtype == "int8"
    assert f"{output}: recipe int8, {facts.size_bytes:,} bytes" in process.stdout
    (warning,) = process.stderr.splitlines()
    assert warning.startswith("tflite_convert: warning: Representative data has only 20 samples; below 50")


def test_convert_to_float_on_any_configured_backend(run_python, workspace):
    output = workspace / "net.tflite"
    arguments = (*CONVERT, f"--model={workspace / 'net.keras'}", f"--output={output}")
    process = run_python(*arguments, KERAS_BACKEND="jax")
    assert (process.returncode, process.stderr) == (0, "")
    assert read_facts(output).inputs[0].dtype == "float32"
    assert stat.S_IMODE(os.stat(output).st_mode) & 0o400


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "tflite_convert: error: the flag --model is required; see --help"),
        (("--model=net.keras",), 2, "the flag --output is required; see --help"),
        (("--modle=net.keras",), 2, "Unknown command line flag 'modle'. Did you mean: model ?"),
        (("net.keras",), 2, "unexpected argument 'net.keras'; give options as --name=value"),
        (("--model=net.keras", "--output=no/x.tflite"), 1, "no/x.tflite': the directory"),
        (
            ("--model=net.keras", "--output=x.tflite", "--recipe=int9"),
            1,
            "no recipe 'int9'. Did you mean 'int8'?",
        ),
        (
            ("--model=net.keras", "--output=x.tflite", "--recipe=int8"),
            1,
            "Give --representative_data=samples.npy.",
        ),
        (
            ("--model=net.keras", "--output=x.tflite", "--recipe=int8", "--representative_data=no.npy"),
            1,
            "Representative data 'no.npy' does not exist.",
        ),
        (("--model=none.keras", "--output=x.tflite"), 1, "Model 'none.keras' does not exist."),
        (
            ("--model=cut.keras", "--output=x.tflite"),
            1,
            "Model 'cut.keras' is no .keras archive or is cut off (900",
        ),
        (
            ("--model=net.keras", "--output=x.tflite", "--recipe=int8", "--representative_data=flat.npy"),
            1,
            "for 'image' has shape [80, 432]; expected [samples, 12, 12, 3].",
        ),
    ],
)
def test_convert_fails_in_one_line(run_python, workspace, monkeypatch, arguments, code, message):
    monkeypatch.chdir(workspace)
    before = sorted(os.listdir())
    assert_fails(run_python(*CONVERT, *arguments), code, message)
    assert sorted(os.listdir()) == before


def test_profile_one_model(run_python, fixture_model):
    process = run_python(*PROFILE, f"--model={fixture_model('tiny_int8')}")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("tiny_int8 on host (1 thread, ")
    assert "48,864 bytes, 26,400 of them constants" in process.stdout


def test_profile_two_models_with_json(run_python, fixture_model, tmp_path):
    models = [f"--model={fixture_model(name)}" for name in ("tiny_f32", "tiny_int8")]
    process = run_python(*PROFILE, *models, f"--output={tmp_path / 'p.json'}")
    assert (process.returncode, process.stderr) == (0, "")
    assert "2.27x" in process.stdout
    stored = json.loads((tmp_path / "p.json").read_text())["profiles"]
    profiles = [Profile.from_json(json.dumps(item)) for item in stored]
    assert [(item.name, item.num_runs) for item in profiles] == [("tiny_f32", 4), ("tiny_int8", 4)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "tflite_profile: error: the flag --model is required; see --help"),
        (("--model=cut.tflite", "--rounds=x"), 2, "--rounds"),
        (("--model=cut.tflite", "--rounds=0"), 1, "rounds is 0; a whole number of at least 1 is expected."),
        (("--model=cut.tflite",), 1, "'cut.tflite' is damaged or cut off (20 bytes)"),
        (("--model=net.keras",), 1, "'net.keras' is no TFLite model: bytes 4 to 8 are"),
        (("--model=cut.tflite", "--device=hots"), 1, "There is no device 'hots'. Did you mean 'host'?"),
        (("--model=cut.tflite", "--output=no/p.json"), 1, "Cannot write 'no/p.json': the directory"),
    ],
)
def test_profile_fails_in_one_line(run_python, workspace, monkeypatch, arguments, code, message):
    monkeypatch.chdir(workspace)
    assert_fails(run_python(*PROFILE, *arguments), code, message)


def test_models_of_one_name_keep_their_paths():
    from tflite_tools.profile_main import _named

    assert _named(["a/net.tflite", "b/net.tflite", "c/other.tflite"]) == {
        "a/net.tflite": "a/net.tflite",
        "b/net.tflite": "b/net.tflite",
        "other": "c/other.tflite",
    }


@pytest.mark.parametrize(
    "module", ["convert_main", "devices_main", "export_main", "facts_main", "profile_main", "qat_main"]
)
@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_shows_examples_and_flags_and_loads_nothing_heavy(run_python, module, flag):
    code = (
        f"import atexit, runpy, sys; sys.argv = ['{module}', '{flag}']\n"
        "heavy = ('tensorflow', 'keras', 'ai_edge_litert')\n"
        "atexit.register(lambda: print('LOADED', [name for name in heavy if name in sys.modules]))\n"
        f"runpy.run_module('tflite_tools.{module}', run_name='__main__')"
    )
    process = run_python("-c", code)
    assert (process.returncode, process.stderr) == (0, "")
    assert f"python -m tflite_tools.{module} --" in process.stdout
    assert "--output: " in process.stdout
    assert process.stdout.endswith("LOADED []\n")


def test_importing_the_package_loads_nothing_heavy(run_python):
    code = (
        "import sys, tflite_tools\n"
        "from tflite_tools import convert, profile, compare_latency, Recipe, RECIPES, Profile, TfliteToolsError\n"
        "assert callable(convert) and callable(profile) and callable(compare_latency)\n"
        "import tflite_tools.conversion, tflite_tools.profiling, tflite_tools.devices.host\n"
        "assert tflite_tools.convert is convert and tflite_tools.profile is profile\n"
        "print([name for name in ('tensorflow', 'keras', 'ai_edge_litert') if name in sys.modules])"
    )
    process = run_python("-c", code)
    assert (process.stdout, process.stderr) == ("[]\n", "")


def test_public_names():
    import tflite_tools

    assert all(hasattr(tflite_tools, name) for name in tflite_tools.__all__)
    assert set(tflite_tools.__all__) <= set(dir(tflite_tools))
    with pytest.raises(AttributeError, match="module 'tflite_tools' has no attribute 'quantise'"):
        tflite_tools.quantise  # noqa: B018


def test_profile_draws_and_writes_every_operator(run_python, fixture_model, tmp_path):
    models = [f"--model={fixture_model(name)}" for name in ("tiny_f32", "tiny_int8")]
    arguments = ("--delegate=builtin", "--per_op", "--memory", f"--plot={tmp_path / 'a.svg'}")
    process = run_python(*PROFILE, *models, *arguments, f"--output={tmp_path / 'ops.csv'}")
    assert (process.returncode, process.stderr) == (0, "")
    assert "tiny_int8, operator by operator (profiler of the LiteRT C library):" in process.stdout
    rows = (tmp_path / "ops.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 19
    assert rows[1].startswith("tiny_f32,host,0,CONV_2D,tiny_1/re_lu_1/Relu6;")
    picture = (tmp_path / "a.svg").read_text()
    assert "tiny_int8: " in picture and "DEPTHWISE_CONV_2D" in picture


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--output=p.txt", "--output=p.txt must end with .json or .csv"), ("--plot=p.png", "must end with .svg")],
)
def test_profile_refuses_other_formats(run_python, fixture_model, flag, message):
    assert_fails(run_python(*PROFILE, f"--model={fixture_model('tiny_f32')}", flag), 2, message)
