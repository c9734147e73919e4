"""Columns that lie in files: .npy files, members of .npz archives, and what had to be written to be read again.

A file is mapped for one read and let go: mapped for good, every page that was read would count as memory of the
process. What is written goes to files without a name, which the system removes however the process ends.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnx_mdp.errors import InputError
from onnx_mdp.inputs.base import Array, Column

_LOCAL_HEADER = 30  # bytes of a zip member's header before its name; the lengths of name and extra field are last


class Unnamed:
    """A temporary file without a name, closed and thereby removed with the last reference to this."""

    def __init__(self) -> None:
        try:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise InputError(f"--inputs need a temporary file: {error}; set TMPDIR to a folder with room") from error
        weakref.finalize(self, self.file.close)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            InputError: the disk is full.
        """
        try:
            self.file.write(data)
            self.file.flush()
        except OSError as error:
            place = f"{self.file.tell()} bytes of them are in {tempfile.gettempdir()}"
            raise InputError(
                f"--inputs cannot be kept: {error.strerror}, {place}; take fewer --samples, or set TMPDIR to a folder "
                "with more room"
            ) from error


@dataclass(frozen=True, eq=False)
class Stored:
    """An array in a file."""

    home: Path | Unnamed
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0
    order: Literal["C", "F"] = "C"

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        """Copies of these rows."""
        file = self.home.file if isinstance(self.home, Unnamed) else self.home
        try:
            values: Array = np.memmap(file, self.dtype, "r", self.offset, self.shape, self.order)
        except (OSError, ValueError) as error:
            raise InputError(f"--inputs {self.home}: was changed while in use: {error}; leave it as it is") from error
        return np.array(values[rows])


def read_npy(path: Path) -> Stored:
    """The array of a .npy file; ValueError or OSError if it is none."""
    with path.open("rb") as file:
        return _array_at(file, path, 0)


def read_npz(path: Path) -> dict[str, Column]:
    """The arrays of a .npz file; compressed ones are unpacked into files of their own."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        return {info.filename.removesuffix(".npy"): _member(archive, info, path, file) for info in archive.infolist()}


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, file: IO[bytes]) -> Stored:
    if info.compress_type == zipfile.ZIP_STORED:
        file.seek(info.header_offset + _LOCAL_HEADER - 4)
        lengths = np.frombuffer(file.read(4), "<u2")
        return _array_at(file, path, info.header_offset + _LOCAL_HEADER + int(lengths.sum()))
    unpacked = Unnamed()
    with archive.open(info) as packed:
        shutil.copyfileobj(packed, unpacked)
    return _array_at(unpacked.file, unpacked, 0)


def _array_at(file: IO[bytes], home: Path | Unnamed, start: int) -> Stored:
    """The array whose .npy header begins at `start`."""
    file.seek(start)
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    found = Stored(home, dtype, shape, file.tell(), "F" if fortran else "C")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype.hasobject or file.seek(0, 2) < found.offset + size:
        raise ValueError("holds Python objects, or is cut short")
    return found


@dataclass
class Spool:
    """Samples written one after the other, to be read again as a column."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None = None
    count: int = 0
    home: Unnamed = field(default_factory=Unnamed)

    def append(self, samples: Array) -> None:
        """Write samples.

        Raises:
            InputError: they have another shape than those before, or the disk is full.
        """
        if self.shape not in (None, samples.shape[1:]):
            sizes = ["x".join(map(str, shape)) for shape in (samples.shape[1:], self.shape or ())]
            raise InputError(f"--inputs: sample {self.count} is {sizes[0]}, those before it {sizes[1]}; make all equal")
        self.shape = samples.shape[1:]
        self.home.write(samples.astype(self.dtype, copy=False).tobytes())
        self.count += len(samples)

    def column(self) -> Column:
        """What was written."""
        return Stored(self.home, self.dtype, (self.count, *(self.shape or ())))
