"""Synthetic inputs, for who has none: images with edges and a spectrum like photographs, otherwise plain noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_mdp.errors import InputError
from onnx_mdp.graph.check import random_values
from onnx_mdp.inputs.base import Array, Column, InputSpec
from onnx_mdp.inputs.preprocess import Preprocess
from onnx_mdp.inputs.stored import Spool

WARNING = (
    "--inputs synthetic: made-up inputs stand in for data, so what is measured on them says little about real ones; "
    "they help a little to choose what to cut; a few hundred real inputs, unlabelled, are worth far more"
)
_SMALLEST = 4  # height or width of what passes for an image
_SHARED = 0.6  # part of the variance that the channels of a leaf share
_PIXELS_PER_LEAF = 64
_PHOTO = 255 * np.array([0.45, 0.25])  # mean and standard deviation of pixels of photographs


def synthetic(specs: tuple[InputSpec, ...], count: int, seed: int, preprocess: Preprocess | None) -> dict[str, Column]:
    """Columns of synthetic samples, the same for the same seed.

    Images have mean 0 and variance 1; or, with a preprocessing, the mean and variance that it makes of photographs.

    Raises:
        InputError: an input has an open size.
    """
    shapes = [_sample(spec, preprocess) for spec in specs]
    return {s.name: _column(s, shapes[i], count, (seed, i), preprocess) for i, s in enumerate(specs)}


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


def _column(
    spec: InputSpec, shape: tuple[int, ...], count: int, seed: tuple[int, int], preprocess: Preprocess | None
) -> Column:
    spool = Spool(spec.dtype)
    for number in range(count):
        spool.append(_made(np.random.default_rng((*seed, number)), spec.dtype, shape, preprocess)[None])
    return spool.column()


def _made(
    rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], preprocess: Preprocess | None
) -> Array:
    """One sample: an image if it has the shape of one and may hold one."""
    if len(shape) != 3 or (dtype.kind != "f" and preprocess is None):
        return random_values(rng, dtype, shape)
    first = preprocess.layout == "nchw" if preprocess else shape[0] <= shape[2]
    depth, height, width = shape if first else (shape[2], *shape[:2])
    if min(height, width) < _SMALLEST:
        return random_values(rng, dtype, shape)
    image = _image(rng, depth, height, width)
    if preprocess is not None:
        return preprocess.normalized(np.rint(np.clip(_PHOTO[0] + _PHOTO[1] * image, 0, 255)))
    return np.moveaxis(image, -1, 0) if first else image


def _image(rng: np.random.Generator, depth: int, height: int, width: int) -> Array:
    """Dead leaves: disks and rectangles that hide each other, radii distributed as r^-3; channels last.

    They have the edges, flat parts and spectrum of photographs (Lee, Mumford and Huang, Occlusion Models for Natural
    Images, IJCV 2001). Over many, mean 0 and variance 1.
    """
    count = height * width // _PIXELS_PER_LEAF + 60
    largest = max(height, width) / 2
    radius = (1 - (1 - largest**-2.0) * rng.random(count)) ** -0.5
    aspect = np.exp(0.4 * rng.standard_normal(count))
    radii = np.stack([radius * aspect, radius / aspect], axis=1)
    centers = rng.random((count, 2)) * (height, width)
    shared, own = rng.standard_normal((count, 1)), rng.standard_normal((count, depth))
    colors = np.sqrt(_SHARED) * shared + np.sqrt(1 - _SHARED) * own
    image: Array = np.tile(colors[0], (height, width, 1))
    for center, reach, color, round_ in zip(centers, radii, colors, rng.random(count) < 0.5, strict=True):
        (top, left), (bottom, right) = np.maximum(center - reach, 0).astype(int), (center + reach + 2).astype(int)
        part = image[top:bottom, left:right]
        y, x = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        inside = ((y - center[0]) / reach[0]) ** 2 + ((x - center[1]) / reach[1]) ** 2 <= 1
        part[inside if round_ else ...] = color
    return image
