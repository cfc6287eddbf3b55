"""Examples in .npz files, for the command lines: x_train, y_train, x_test, y_test. Nothing in them is executed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_qcqp.errors import FileError

if TYPE_CHECKING:
    import numpy as np

_NAMES = ("x_train", "y_train", "x_test", "y_test")


def load_examples(path: str, needed: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the four arrays that the file has.

    Raises:
        FileError: it cannot be read, or lacks an array that is needed; x_test and y_test come together.
    """
    import numpy as np  # a command line should not wait for it to say that a flag is wrong

    if os.path.isfile(path) and not zipfile.is_zipfile(path):
        raise FileError(f"Cannot read data '{path}': it is no .npz archive. Write it with np.savez.")
    try:
        with np.load(path, allow_pickle=False) as pack:
            arrays = {name: pack[name] for name in _NAMES if name in pack.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"Cannot read data '{path}': {reason}. Write it with np.savez.") from error
    missing = [name for name in needed if name not in arrays]
    missing += [b for a, b in (("x_test", "y_test"), ("y_test", "x_test")) if a in arrays and b not in arrays]
    if missing:
        raise FileError(f"Data '{path}' has no array '{missing[0]}'. It must hold {' and '.join(needed)}.")
    return arrays
