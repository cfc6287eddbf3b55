"""The examples that train and prune on pictures, one after the other, on a handful of made-up ones."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import flags
from benchmarks.shared_data import load_tiles
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def forget_flags(module: str) -> None:
    """Examples have flags of the same names, and absl has one set for all of a process."""
    for name in [flag.name for flag in flags.FLAGS.flags_by_module_dict().get(module, ())]:
        if name in flags.FLAGS:
            delattr(flags.FLAGS, name)


@pytest.fixture
def example(monkeypatch, capfd):
    """Runs an example in this process, which knows TensorFlow already: (status, standard output, standard error)."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(name: str, *options: str) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        forget_flags("paper_instance")  # which other tests import
        spec.loader.exec_module(module)
        try:
            status = module.main(flags.FLAGS([name, *options]))
        finally:
            flags.FLAGS.unparse_flags()
            forget_flags(name)
        return status, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """CIFAR-10 packs of 100 random images each."""
    folder = tmp_path_factory.mktemp("cifar10")
    random = np.random.default_rng(0)
    for name in ("train_1", "test"):
        images = random.integers(0, 256, (100, 32, 32, 3)).astype(np.uint8)
        tile = images.reshape(10, 10, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(320, 320, 3)
        stream = io.BytesIO()
        Image.fromarray(tile).save(stream, "webp", lossless=True, exact=True)
        pack = {"grid": [10, 10], "shape": [100, 32, 32, 3], "y": random.integers(0, 10, 100)}
        np.savez(folder / f"{name}.npz", webp_000=np.frombuffer(stream.getvalue(), np.uint8), **pack)
        np.save(folder / f"{name}.npy", images)
    return folder


def test_cifar10_is_trained_pruned_and_trained_again(example, folder, tmp_path):
    data = (f"--data_dir={folder}", "--num_test=50")
    few = (*data, "--num_train=64", "--epochs=1")
    original, pruned, tuned = (str(tmp_path / f"{name}.keras") for name in ("original", "pruned", "tuned"))
    status, output, errors = example("train_cifar10", "--depth=8", f"--output={original}", *few)
    assert status == 0, errors
    assert re.search(r"^finished 1 epochs: val_accuracy 0\.\d+ after the last, .*\nwrote ", output)
    status, output, errors = example(
        "prune_cifar10", f"--model={original}", f"--output={pruned}", "--num_samples=20", *data
    )
    assert status == 0, errors
    assert re.search(r"\naccuracy on 50 test images: \d+\.\d\d% before, \d+\.\d\d% after; wrote ", output)
    both = (f"--model={pruned}", f"--teacher={original}")
    status, output, errors = example("finetune_cifar10", *both, f"--output={tuned}", *few)
    assert status == 0, errors
    assert output.startswith("finished 1 epochs: val_accuracy ")
    sizes = [keras.models.load_model(path).count_params() for path in (original, pruned, tuned)]
    assert sizes[0] > sizes[1] == sizes[2]


def test_cifar10_images_are_read_exactly(example, folder, shared_file):
    import cifar10

    data = cifar10.load(str(folder), num_train=64)
    assert (data.train.x.shape, data.test.x.shape) == ((64, 32, 32, 3), (100, 32, 32, 3))
    pixels = np.load(folder / "train_1.npy")[:64] / 255
    np.testing.assert_allclose(data.train.x * cifar10.STD + cifar10.MEAN, pixels, atol=1e-6)
    real = shared_file("cifar10/test.npz")
    for found, wanted in zip(cifar10.read_tiles(real), load_tiles(real), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_cifar10_augmentation_moves_and_mirrors(example):
    import cifar10

    x = np.random.default_rng(1).normal(size=(40, 32, 32, 3)).astype(np.float32)
    changed = cifar10.crop_and_flip(x, np.random.default_rng(0))
    assert (changed.shape, changed.dtype) == (x.shape, x.dtype)
    padded = np.tile((-cifar10.MEAN / cifar10.STD).astype(np.float32), (40, 40, 40, 1))
    padded[:, 4:36, 4:36] = x
    seen = set()
    for image, around in zip(changed, padded, strict=True):
        places = [
            (top, left, step)
            for top in range(9)
            for left in range(9)
            for step in (1, -1)
            if np.array_equal(image, around[top : top + 32, left : left + 32][:, ::step])
        ]
        assert len(places) == 1
        seen |= set(places)
    assert {step for _, _, step in seen} == {1, -1} and len(seen) > 20


@pytest.mark.parametrize("depth", [8, 20])
def test_cifar10_resnets_have_the_usual_size(example, depth):
    import cifar10

    assert cifar10.resnet(depth).count_params() == {8: 78_714, 20: 274_042}[depth]
    with pytest.raises(ValueError, match=r"A CIFAR ResNet has 6 n \+ 2 layers \(8, 14, 20, \.\.\.\), got 9\."):
        cifar10.resnet(9)


@pytest.mark.parametrize("layout", ["classes", "csv"])
def test_imagenet_is_pruned_and_measured(example, tmp_path, layout):
    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28, 3))
    x = keras.layers.Conv2D(8, 3, 2, activation="relu", name="a")(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, activation="relu", name="b")(x))
    keras.Model(image, keras.layers.Dense(1000)(x)).save(tmp_path / "model.keras")
    rows = ["class_index,file"]
    for label in range(3):
        inside = tmp_path / "data" / f"n0{label}"
        inside.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40 + number, 33), (80 * label, 9, 9)).save(inside / f"{number}.png")
            rows.append(f"{label},n0{label}/{number}.png")
    if layout == "csv":
        (tmp_path / "data/labels.csv").write_text("\n".join(rows))
    files = (f"--model={tmp_path / 'model.keras'}", f"--data={tmp_path / 'data'}", f"--output={tmp_path / 'p.keras'}")
    status, output, errors = example("imagenet_prune", *files, "--num_images=5", "--num_samples=1")
    assert status == 0, errors
    assert re.search(r"\ntop-1 on 5 pictures: \d+\.\d\d% before, \d+\.\d\d% after; wrote ", output)
    assert keras.models.load_model(tmp_path / "p.keras").input_shape == (None, 28, 28, 3)


def test_imagenet_preprocessing_is_mobilenets(example, tmp_path):
    example_file = tmp_path / "no.keras"
    status, _, errors = example("imagenet_prune", f"--model={example_file}", "--data=x")
    assert (status, errors) == (1, f"error: Cannot read model '{example_file}': no such file.\n")
    module = sys.modules["imagenet_prune"]
    picture = Image.fromarray(np.arange(256 * 300 * 3, dtype=np.uint8).reshape(256, 300, 3))
    x = module.prepared(picture, 224)
    np.testing.assert_allclose(x, np.asarray(picture, np.float32)[16:240, 38:262] / 127.5 - 1)
    assert module.prepared(Image.new("L", (50, 500)), 224).shape == (224, 224, 3)
