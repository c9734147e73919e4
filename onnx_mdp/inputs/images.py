"""Calibration inputs from a folder of images, decoded once and kept as bytes in a temporary file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.errors import InputError
from onnx_mdp.inputs.base import Array, Column
from onnx_mdp.inputs.preprocess import Preprocess
from onnx_mdp.inputs.stored import Spool

_NAMED = 3  # unreadable images that a warning names


@dataclass(frozen=True, eq=False)
class Normalized:
    """Pixels that are normalized when they are read."""

    pixels: Column
    preprocess: Preprocess
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, then the shape of one."""
        count, height, width, _ = self.pixels.shape
        return (count, *self.preprocess.sample_shape(height, width))

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        """These images, as the model takes them."""
        return self.preprocess.normalized(self.pixels[rows])


@dataclass(frozen=True, eq=False)
class Images:
    """Images of a folder.

    Attributes:
        column: their pixels, normalized.
        files: every image of the folder, by its sorted name below that.
        numbers: which of the files the column holds.
        notes: which could not be read.
    """

    column: Column
    files: tuple[str, ...]
    numbers: NDArray[np.int64]
    notes: tuple[str, ...]


def read_images(folder: Path, preprocess: Preprocess, samples: int, seed: int) -> Images:
    """At most this many images of a folder and the folders in it, chosen by the seed.

    Raises:
        InputError: Pillow is not installed, there is no image, none can be read, or they differ in size and
            `preprocess` leaves that so.
    """
    files = image_files(folder)
    spool = Spool(np.dtype(np.uint8))
    numbers: list[int] = []
    failed: list[str] = []
    for number in np.random.default_rng(seed).permutation(len(files)):
        if len(numbers) == samples:
            break
        pixels = _decoded(folder / files[number], preprocess)
        if isinstance(pixels, str):
            failed.append(f"{files[number]} ({pixels})")
            continue
        _check_size(folder / files[number], pixels, spool.shape, preprocess)
        spool.append(pixels[None])
        numbers.append(int(number))
    column = Normalized(spool.column(), preprocess, np.dtype(np.float32))
    if not numbers:
        raise InputError(f"--inputs {folder}: none of {len(files)} images can be read: {failed[0]}")
    return Images(column, files, np.array(numbers), tuple(_notes(folder, failed)))


def image_files(folder: Path) -> tuple[str, ...]:
    """Names, below a folder, of all files with an image's suffix, sorted.

    Raises:
        InputError: Pillow is not installed, or there is none.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            f"--inputs {folder}: images need Pillow: pip install 'onnx-mdp[images]', or give a .npz"
        ) from error
    kinds = Image.registered_extensions()
    known = {suffix for suffix, kind in kinds.items() if kind in Image.OPEN}
    files = sorted(
        Path(top, name).relative_to(folder).as_posix()
        for top, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in known and not name.startswith(".")
    )
    if not files:
        raise InputError(
            f"--inputs {folder}: no image in this folder or one below it; give one that holds .jpg or .png"
        )
    return tuple(files)


def _decoded(file: Path, preprocess: Preprocess) -> Array | str:
    """Pixels of an image after resize and crop, channels last; or why it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = opened.convert("L" if preprocess.channels == "gray" else "RGB")
    except Exception as error:  # decoders raise whatever the bytes lead them to
        return "is no image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
    height, width = preprocess.resized(image.height, image.width)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), Image.Resampling[preprocess.filter.upper()])
    pixels = np.asarray(image)[preprocess.crop(height, width)]
    return pixels.reshape(*pixels.shape[:2], -1)


def _check_size(file: Path, pixels: Array, shape: tuple[int, ...] | None, preprocess: Preprocess) -> None:
    if shape is not None and pixels.shape != shape:
        sizes = " and ".join(f"{height}x{width}" for height, width, _ in (pixels.shape, shape))
        raise InputError(f"--inputs {file}: images of sizes {sizes}; add size=224 or the like to --preprocess")


def _notes(folder: Path, failed: list[str]) -> Iterator[str]:
    if failed:
        more = ", ..." if len(failed) > _NAMED else ""
        yield f"--inputs {folder}: {len(failed)} cannot be read and are left out: {', '.join(failed[:_NAMED])}{more}"
