"""Images changed a little, differently each time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.errors import OptionError

Array = NDArray[Any]
WAYS = ("flip", "shift")

_SHIFT = 8  # by up to one part in so many of the height and width
_COLORS = (1, 3, 4)


def check_ways(ways: Collection[str]) -> None:
    """Whether all are known.

    Raises:
        OptionError: one is not.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise OptionError(f"--augment {unknown[0]}: choose from {', '.join(WAYS)}")


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether a batch of this shape is one of images: gray or in colors, channels first or last."""
    return len(shape) == 4 and (shape[1] in _COLORS or shape[3] in _COLORS)


def augmented(feeds: Mapping[str, Array], ways: Collection[str], rng: np.random.Generator) -> dict[str, Array]:
    """The feeds with their images changed, all of one sample alike; what a shift uncovers repeats the edge.

    Raises:
        OptionError: none is of images.
    """
    if not ways:
        return dict(feeds)
    images = [name for name, values in feeds.items() if is_image(values.shape)]
    if not images:
        shown = ", ".join(f"{name} {'x'.join(map(str, values.shape))}" for name, values in feeds.items())
        raise OptionError(f"--augment {', '.join(ways)}: no input is of images: {shown}; leave it out")
    count = len(feeds[images[0]])
    flips = rng.random(count) < ("flip" in ways) / 2
    shifts = rng.uniform(-1, 1, (2, count)) * ("shift" in ways) / _SHIFT
    return {**feeds, **{name: _moved(feeds[name], flips, *shifts) for name in images}}


def _moved(images: Array, flips: Array, down: Array, right: Array) -> Array:
    first = images.shape[1] in _COLORS
    last = images.transpose(0, 2, 3, 1) if first else images
    height, width = last.shape[1:3]
    rows, columns = _places(height, down), _places(width, right)
    columns = np.where(flips[:, None], columns[:, ::-1], columns)
    found = last[np.arange(len(last))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2) if first else found)


def _places(size: int, shares: Array) -> Array:
    """For each sample, where along an axis its pixels come from."""
    shifts = np.rint(shares * size).astype(np.int64)
    return np.asarray(np.clip(np.arange(size) + shifts[:, None], 0, size - 1))
