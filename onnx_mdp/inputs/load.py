"""The one way to calibration inputs, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.errors import InputError, OptionError
from onnx_mdp.inputs.arrays import read_arrays
from onnx_mdp.inputs.base import Array, Column, Inputs, InputSpec
from onnx_mdp.inputs.function import Function, read_function
from onnx_mdp.inputs.images import read_images
from onnx_mdp.inputs.labels import FOLDERS, LabelsLike, checked_labels, folder_labels, read_labels
from onnx_mdp.inputs.preprocess import PRESETS, Preprocess, parse_preprocess
from onnx_mdp.inputs.synthetic import WARNING, synthetic
from onnx_mdp.inputs.user_code import is_reference

InputsLike = str | Path | Mapping[str, Array] | Array | Function
SYNTHETIC = "synthetic"
_SAMPLES = 256


@dataclass(frozen=True)
class Reading:
    """How inputs are read.

    Attributes:
        preprocess: what is done to images, as `--preprocess` takes it.
        labels: one integer per sample of the source, or `folders`.
        samples: take at most this many; by default all of arrays, and 256 of anything else.
        seed: which are taken.
    """

    preprocess: str | None = None
    labels: LabelsLike | None = None
    samples: int | None = None
    seed: int = 0

    @property
    def limit(self) -> int:
        """Samples taken of a source that may have any number."""
        return self.samples or _SAMPLES

    @property
    def by_folder(self) -> bool:
        """Whether the folders that images lie in are their labels."""
        return isinstance(self.labels, str) and self.labels == FOLDERS


@dataclass(frozen=True, eq=False)
class _Found:
    """What a source gave.

    `rows` are the samples of the columns that are taken, `numbers` the same samples' numbers in the source, which
    labels go by. `total` is how many the source has; None where that is unknown.
    """

    columns: Mapping[str, Column]
    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]
    total: int | None
    labels: Array | None = None
    notes: tuple[str, ...] = ()


def load_inputs(source: InputsLike, specs: tuple[InputSpec, ...], reading: Reading | None = None) -> Inputs:
    """Calibration inputs, checked against the model's.

    Args:
        source: a .npz file or mapping with one array per model input, samples along the first axis, and perhaps one
            named `labels`; a .npy file or array for a model with one input; a folder of images; a function, or
            `module:function`, that yields feeds; or `synthetic`.
        specs: the model's inputs.
        reading: how they are read.

    Raises:
        InputError: the source cannot be read, or names, shapes, types or numbers do not fit.
        OptionError: a part of `reading` is malformed or does not go with the source.
    """
    reading = reading or Reading()
    if reading.samples is not None and reading.samples < 1:
        raise OptionError(f"--samples {reading.samples}: must be 1 or more")
    found = _read(source, specs, reading)
    for spec in specs:
        _check(found.columns[spec.name], spec, len(found.rows), reading)
    labels = _labels(found, reading)
    inputs = Inputs(specs, {s.name: found.columns[s.name] for s in specs}, found.rows, labels, found.notes)
    return inputs.take(0, inputs.count)


def _read(source: InputsLike, specs: tuple[InputSpec, ...], reading: Reading) -> _Found:
    text = str(source) if isinstance(source, str | Path) else None
    if text == SYNTHETIC:
        return _synthetic(specs, reading)
    if text is not None and Path(text).is_dir():
        return _from_folder(Path(text), specs, reading)
    if reading.preprocess is not None:
        raise OptionError(f"--preprocess {reading.preprocess}: is for --inputs of a folder of images, or synthetic")
    if reading.by_folder:
        raise OptionError(f"--labels {FOLDERS}: is for --inputs of a folder of images; give a file of integers")
    if text is not None and is_reference(text) and not Path(text).exists():
        return _from_function(text, specs, reading)
    if callable(source):
        return _from_function(source, specs, reading)
    return _from_arrays(Path(source) if isinstance(source, str) else source, specs, reading)


def _synthetic(specs: tuple[InputSpec, ...], reading: Reading) -> _Found:
    if reading.labels is not None:
        raise OptionError("--labels: synthetic inputs have none; give real --inputs, or drop it")
    preprocess = _preprocess(reading.preprocess, specs) if reading.preprocess is not None else None
    rows = np.arange(reading.limit)
    columns = synthetic(specs, reading.limit, reading.seed, preprocess)
    return _Found(columns, rows, rows, reading.limit, notes=(WARNING,))


def _preprocess(text: str, specs: tuple[InputSpec, ...]) -> Preprocess:
    preprocess = parse_preprocess(text)
    for spec in specs:
        if len(spec.sample) == 3 and spec.dtype.kind in "iu" and not preprocess.is_raw:
            raise OptionError(f"--preprocess {text}: the model takes {spec.dtype}: use raw")
    return preprocess


def _from_folder(folder: Path, specs: tuple[InputSpec, ...], reading: Reading) -> _Found:
    if reading.preprocess is None:
        raise OptionError(f"--inputs {folder}: a folder of images needs --preprocess: {', '.join(PRESETS)}, or fields")
    preprocess = _preprocess(reading.preprocess, specs)
    if len(specs) > 1:
        raise InputError(
            f"--inputs {folder}: images are one input, the model has {[s.name for s in specs]}; give a .npz"
        )
    images = read_images(folder, preprocess, reading.limit, reading.seed)
    own = folder_labels(images.files) if reading.by_folder else None
    rows = np.arange(len(images.numbers))
    return _Found({specs[0].name: images.column}, rows, images.numbers, len(images.files), own, images.notes)


def _from_function(source: str | Function, specs: tuple[InputSpec, ...], reading: Reading) -> _Found:
    columns, count, ended = read_function(source, specs, reading.limit)
    rows = np.arange(count)
    return _Found(columns, rows, rows, count if ended else None)


def _from_arrays(source: Path | Mapping[str, Array] | Array, specs: tuple[InputSpec, ...], reading: Reading) -> _Found:
    columns = read_arrays(source, specs)
    names = [spec.name for spec in specs]
    own = columns.pop("labels") if "labels" in columns and "labels" not in names else None
    if unknown := sorted(set(columns) - set(names)):
        raise InputError(
            f"--inputs has {', '.join(unknown)}; the model's inputs are {', '.join(names)}: rename or drop"
        )
    if absent := sorted(set(names) - set(columns)):
        raise InputError(f"--inputs lacks {', '.join(absent)}; every model input needs its samples")
    counts = {name: column.shape[0] if column.shape else 0 for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"--inputs holds different numbers of samples: {counts}")
    total = counts[names[0]]
    rows = np.arange(total)
    if reading.samples is not None and reading.samples < total:
        rows = np.random.default_rng(reading.seed).permutation(total)[: reading.samples]
    return _Found(columns, rows, rows, total, checked_labels(own, "--inputs: 'labels'") if own is not None else None)


def _check(column: Column, spec: InputSpec, count: int, reading: Reading) -> None:
    """Whether the model takes these samples."""
    if not spec.fits(column.shape[1:]):
        shown = "x".join(map(str, column.shape))
        remedy = "; change size or layout of --preprocess" if reading.preprocess else ""
        raise InputError(f"--inputs {spec.name!r} is {shown}, the model takes {spec.shown()}{remedy}")
    if count < (spec.batch or 1):
        raise InputError(f"--inputs {spec.name!r} holds {count} samples, the model's batch is {spec.batch or 1}")
    if column.dtype.kind != spec.dtype.kind and not reading.preprocess:
        raise InputError(f"--inputs {spec.name!r} is {column.dtype}, the model takes {spec.dtype}: convert it")


def _labels(found: _Found, reading: Reading) -> Array | None:
    """The labels of the samples taken."""
    labels = found.labels if reading.labels is None or reading.by_folder else read_labels(reading.labels)
    if labels is None:
        return None
    least = int(found.numbers.max()) + 1
    if (found.total is not None and len(labels) != found.total) or len(labels) < least:
        raise InputError(f"{len(labels)} labels for {found.total or least} samples of --inputs; give one for each")
    return labels[found.numbers]
