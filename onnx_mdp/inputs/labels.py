"""Labels: one integer per sample, from a file, an array, or the folders that images lie in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_mdp.errors import InputError
from onnx_mdp.inputs.arrays import read_array_file
from onnx_mdp.inputs.base import Array, Column

LabelsLike = str | Path | Array | Sequence[int]
FOLDERS = "folders"


def read_labels(source: LabelsLike) -> Array:
    """Integers from a text file, a .npy file, a .npz file (its array `labels`, or its only one), or memory.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    found = _loaded(Path(source)) if isinstance(source, str | Path) else np.asarray(source)
    return checked_labels(found, f"--labels {source}" if isinstance(source, str | Path) else "labels")


def checked_labels(found: Column, place: str) -> Array:
    """The labels in memory, one integer per sample.

    Raises:
        InputError: they are not.
    """
    if len(found.shape) != 1 or found.dtype.kind not in "iu":
        shown = "x".join(map(str, found.shape))
        raise InputError(f"{place}: is {found.dtype} {shown}; labels are one integer per sample")
    return found[np.arange(found.shape[0])].astype(np.int64)


def folder_labels(files: Sequence[str]) -> Array:
    """For each file name, which of the sorted outermost folders in these names it lies in.

    Raises:
        InputError: a file lies in none.
    """
    if loose := [file for file in files if "/" not in file]:
        raise InputError(f"--labels {FOLDERS}: {loose[0]} lies in no folder of a class; give --labels FILE")
    return np.unique([file.partition("/")[0] for file in files], return_inverse=True)[1]


def _loaded(path: Path) -> Column:
    if path.suffix not in (".npy", ".npz"):
        return _text(path)
    found = read_array_file(path, "--labels")
    if not isinstance(found, dict):
        return found
    chosen = found.get("labels", next(iter(found.values())) if len(found) == 1 else None)
    if chosen is None:
        raise InputError(f"--labels {path}: holds {', '.join(found)}; name the labels 'labels'")
    return chosen


def _text(path: Path) -> Column:
    try:
        words: list[Any] = path.read_text().split()
        return np.array([int(word) for word in words], np.int64)
    except FileNotFoundError as error:
        raise InputError(f"--labels {path}: no such file; give a .npy, .npz or text file of integers") from error
    except (OSError, ValueError) as error:
        raise InputError(f"--labels {path}: {error}; give a .npy, .npz or text file of integers") from error
