"""Synthetic inputs, for who has none: images of noise with the spectrum of photographs, otherwise plain noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.errors import InputError
from onnx_mdp.graph.check import random_values
from onnx_mdp.inputs.base import Array, Column, InputSpec
from onnx_mdp.inputs.preprocess import Preprocess

WARNING = (
    "--inputs synthetic: noise stands in for data, so what is measured on it says little about real inputs; "
    "a few hundred real ones, unlabelled, are worth far more"
)
_SMALLEST = 4  # height or width of what passes for an image
_SHARED = 0.8  # part of the variance that colors share, and
_BRIGHTNESS = 0.2  # part that is one value all over the image: about what photographs have
_PHOTO = 255 * np.array([0.45, 0.25])  # mean and standard deviation of pixels of photographs


def synthetic(specs: tuple[InputSpec, ...], count: int, seed: int, preprocess: Preprocess | None) -> dict[str, Column]:
    """Columns of synthetic samples, made when they are read.

    Raises:
        InputError: an input has an open size.
    """
    return {s.name: Synthetic(s, (count, *_sample(s, preprocess)), (seed, i), preprocess) for i, s in enumerate(specs)}


def _sample(spec: InputSpec, preprocess: Preprocess | None) -> tuple[int, ...]:
    sizes = tuple(size for size in spec.sample if size is not None)
    if len(sizes) < len(spec.sample):
        example = spec.shown().replace("N", "1", 1).replace("?", "224")
        raise InputError(
            f"--inputs synthetic: input {spec.name!r} is {spec.shown()}; give its size: --shape {spec.name}:{example}"
        )
    if preprocess and len(sizes) == 3:
        height, width = sizes[1:] if preprocess.layout == "nchw" else sizes[:2]
        if sizes != (made := preprocess.sample_shape(height, width)):
            shown = "x".join(map(str, made))
            raise InputError(
                f"--inputs synthetic: input {spec.name!r} is {spec.shown()}, --preprocess makes Nx{shown}: change its "
                "layout or channels"
            )
    return sizes


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Samples each made from the seed and its own number.

    Images have an amplitude of 1/f, mean 0 and variance 1; or, with a preprocessing, the mean and variance that it
    makes of photographs.
    """

    spec: InputSpec
    shape: tuple[int, ...]
    seed: tuple[int, ...]
    preprocess: Preprocess | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.spec.dtype

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        """These samples."""
        return np.stack([self._sample(np.random.default_rng((*self.seed, int(row)))) for row in rows])

    def _sample(self, rng: np.random.Generator) -> Array:
        shape = self.shape[1:]
        if len(shape) != 3 or (self.dtype.kind != "f" and self.preprocess is None):
            return random_values(rng, self.dtype, shape)
        first = self.preprocess.layout == "nchw" if self.preprocess else shape[0] <= shape[2]
        depth, height, width = shape if first else (shape[2], *shape[:2])
        if min(height, width) < _SMALLEST:
            return random_values(rng, self.dtype, shape)
        image = np.moveaxis(_image(rng, depth, height, width), 0, -1)
        if self.preprocess is None:
            return np.moveaxis(image, -1, 0) if first else image
        return self.preprocess.normalized(np.rint(np.clip(_PHOTO[0] + _PHOTO[1] * image, 0, 255)))


def _image(rng: np.random.Generator, depth: int, height: int, width: int) -> Array:
    """Noise of amplitude 1/f whose channels go along with each other; shape (depth, height, width)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((depth + 1, height, width))) / frequency
    fields = np.fft.irfft2(spectrum, (height, width))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    mixed = np.sqrt(_SHARED) * fields[:1] + np.sqrt(1 - _SHARED) * fields[1:]
    image: Array = np.sqrt(1 - _BRIGHTNESS) * mixed + np.sqrt(_BRIGHTNESS) * rng.standard_normal()
    return image
