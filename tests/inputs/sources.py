"""The same ten samples in every form that --inputs takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from onnx_mdp.inputs.base import InputSpec

IMAGE = InputSpec("x", np.dtype(np.float32), (3, 8, 8), None)
COUNT = 10
images = np.random.default_rng(0).normal(size=(COUNT, 3, 8, 8)).astype(np.float32)
labels = np.arange(COUNT) % 3

FEEDS = """
import numpy as np
x = np.load({path!r})
def singles():
    yield from x
def batches():
    return ({{"x": x[i : i + 3]}} for i in range(0, 10, 3))
class Data:
    def __iter__(self):
        return iter([x[:7], x[7], x[8:]])
def fails():
    yield x[0]
    return 1 / 0
def nothing():
    return []
def shapeless():
    yield x[0, 0]
def doubtful():
    yield {{"y": x}}
def endless():
    while True:
        yield np.random.rand(3, 8, 8)
number = 3
"""


def write_sources(folder: Path) -> None:
    """Writes them all."""
    np.savez(folder / "x.npz", x=images)
    np.savez_compressed(folder / "packed.npz", x=images, labels=labels)
    np.save(folder / "x.npy", images)
    np.save(folder / "fortran.npy", np.asfortranarray(images))
    (folder / "given.py").write_text(FEEDS.format(path=str(folder / "x.npy")))
    write_images(folder / "images", COUNT)


def write_images(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> None:
    """Images of three classes whose first pixel is their number."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)
        pixels[0, 0] = number % 256
        path = folder / "abc"[number % 3] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
