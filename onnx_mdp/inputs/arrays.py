"""Calibration inputs from .npz and .npy files or arrays in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnx_mdp.errors import InputError
from onnx_mdp.inputs.base import Array, Column, InputSpec
from onnx_mdp.inputs.stored import read_npy, read_npz


def read_arrays(source: Path | Mapping[str, Array] | Array, specs: tuple[InputSpec, ...]) -> dict[str, Column]:
    """Columns by name from a file or from memory; one array is that of the only input.

    Raises:
        InputError: the file cannot be read, or is one array for several inputs.
    """
    if isinstance(source, Mapping):
        return {name: np.asarray(array) for name, array in source.items()}
    found = read_array_file(source, "--inputs") if isinstance(source, Path) else source
    if isinstance(found, dict):
        return found
    if len(specs) > 1:
        raise InputError(f"--inputs is one array, the model has inputs {[s.name for s in specs]}; give a .npz with all")
    return {specs[0].name: found}


def read_array_file(path: Path, option: str) -> dict[str, Column] | Column:
    """The arrays of a .npz file by name, or the one of a .npy file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_npz(path) if zipfile.is_zipfile(path) else read_npy(path)
    except FileNotFoundError as error:
        raise InputError(f"{option} {path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(f"{option} {path}: not a readable .npz or .npy file; write one with numpy.savez") from error
