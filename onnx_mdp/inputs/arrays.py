"""Calibration inputs from .npz and .npy files or arrays in memory, checked against the model's inputs."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.errors import InputError

Array = NDArray[Any]
_BATCH = 4


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: element type, sample shape (None where any size fits), and the batch if it is fixed."""

    name: str
    dtype: np.dtype[Any]
    sample: tuple[int | None, ...]
    batch: int | None


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples for every input of a model, all of the same number."""

    specs: tuple[InputSpec, ...]
    arrays: Mapping[str, Array]

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    @property
    def batch(self) -> int:
        """Samples in one run: what the model fixes, else a few."""
        fixed = [spec.batch for spec in self.specs if spec.batch]
        return fixed[0] if fixed else min(_BATCH, self.count)

    @property
    def steps(self) -> int:
        """Runs it takes to see every sample; a last part that does not fill a fixed batch is left out."""
        fixed = any(spec.batch for spec in self.specs)
        return self.count // self.batch if fixed else math.ceil(self.count / self.batch)

    def take(self, start: int, stop: int) -> Inputs:
        """The samples of a sub-range."""
        return Inputs(self.specs, {name: array[start:stop] for name, array in self.arrays.items()})

    def batches(self) -> Iterator[dict[str, Array]]:
        """Feeds that together hold every sample once."""
        for step in range(self.steps):
            span = slice(step * self.batch, (step + 1) * self.batch)
            yield {name: array[span] for name, array in self.arrays.items()}


def load_inputs(source: str | Path | Mapping[str, Array] | Array, specs: tuple[InputSpec, ...]) -> Inputs:
    """Inputs from a file or from memory.

    Args:
        source: a .npz file or mapping with one array per model input, samples along the first axis; or a .npy file
            or array for a model with one input.
        specs: the model's inputs.

    Raises:
        InputError: the file cannot be read, or names, shapes or types do not fit.
    """
    arrays = _read(source, specs)
    names = [spec.name for spec in specs]
    if unknown := sorted(set(arrays) - set(names)):
        raise InputError(
            f"--inputs has {', '.join(unknown)}; the model's inputs are {', '.join(names)}: rename or drop"
        )
    if absent := sorted(set(names) - set(arrays)):
        raise InputError(f"--inputs lacks {', '.join(absent)}; every model input needs its samples")
    checked = {spec.name: _fitted(arrays[spec.name], spec) for spec in specs}
    counts = {name: len(array) for name, array in checked.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"--inputs holds different numbers of samples: {counts}")
    return Inputs(specs, checked)


def _read(source: str | Path | Mapping[str, Array] | Array, specs: tuple[InputSpec, ...]) -> dict[str, Array]:
    if isinstance(source, Mapping):
        return {name: np.asarray(array) for name, array in source.items()}
    loaded = source if isinstance(source, np.ndarray) else _load(Path(source))
    if isinstance(loaded, dict):
        return loaded
    if len(specs) > 1:
        raise InputError(f"--inputs is one array, the model has inputs {[s.name for s in specs]}; give a .npz with all")
    return {specs[0].name: loaded}


def _load(path: Path) -> dict[str, Array] | Array:
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError as error:
        raise InputError(f"--inputs {path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"--inputs {path}: not a readable .npz or .npy file; write one with numpy.savez") from error


def _fitted(array: Array, spec: InputSpec) -> Array:
    wanted = "x".join(["N", *("?" if size is None else str(size) for size in spec.sample)])
    found = array.shape[1:]
    if len(found) != len(spec.sample) or any(s not in (None, f) for s, f in zip(spec.sample, found, strict=True)):
        shown = "x".join(map(str, array.shape))
        raise InputError(f"--inputs {spec.name!r} is {shown}, the model takes {wanted}")
    if len(array) < (spec.batch or 1):
        raise InputError(f"--inputs {spec.name!r} holds {len(array)} samples, the model's batch is {spec.batch or 1}")
    same_kind = array.dtype.kind == spec.dtype.kind
    if not same_kind:
        raise InputError(f"--inputs {spec.name!r} is {array.dtype}, the model takes {spec.dtype}: convert it")
    return np.ascontiguousarray(array.astype(spec.dtype, copy=False))
