"""Synthetic inputs: what their values look like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_mdp.errors import InputError, OptionError
from onnx_mdp.inputs.base import InputSpec
from onnx_mdp.inputs.load import Reading, load_inputs


def made(
    shape: tuple[int, ...], dtype: type = np.float32, preprocess: str | None = None, count: int = 200
) -> np.ndarray:
    spec = InputSpec("x", np.dtype(dtype), shape, None)
    inputs = load_inputs("synthetic", (spec,), Reading(preprocess, samples=count))
    assert "made-up inputs stand in for data" in inputs.notes[0]
    return inputs.first(count)["x"]


def test_images_have_the_spectrum_of_photographs() -> None:
    """Power falls about with the square of the frequency, colors go together, and there are edges."""
    images = made((3, 64, 64))
    assert abs(images.mean()) < 0.1
    assert abs(images.std() - 1) < 0.1
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(axis=(0, 1))
    rows = np.arange(2, 24)
    slope = np.polyfit(np.log(rows), np.log(power[rows, 0]), 1)[0]
    assert -2.3 < slope < -1.5
    steps = np.diff(images, axis=3)
    assert (steps**4).mean() / (steps**2).mean() ** 2 > 6  # 3 in Gaussian noise of any spectrum
    assert np.corrcoef(images[:, 0].ravel(), images[:, 1].ravel())[0, 1] > 0.4


@pytest.mark.parametrize("shape", [(3, 32, 48), (32, 48, 3), (1, 33, 31)])
def test_layout_follows_the_shape(shape: tuple[int, ...]) -> None:
    """Neighbors along height and width are alike; in white noise they differ by 1.13 deviations."""
    images = made(shape, count=50)
    axes = (2, 3) if shape[0] < shape[2] else (1, 2)
    for axis in axes:
        assert np.abs(np.diff(images, axis=axis)).mean() < 0.7 * images.std()


def test_a_preprocessing_gives_mean_and_deviation() -> None:
    for text, shape in (("imagenet", (3, 64, 64)), ("caffe,layout=nhwc", (64, 64, 3)), ("raw", (3, 64, 64))):
        images = made(shape, preprocess=text)
        channel = 1 if shape[0] == 3 else 3
        axes = tuple(axis for axis in range(4) if axis != channel)
        mean, std = {
            "imagenet": ((0.45 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], 0.25 / 0.225),
            "caffe,layout=nhwc": (114.75 - np.array([103.939, 116.779, 123.68]), 63.75),
            "raw": (np.full(3, 114.75), 63.75),
        }[text]
        assert np.allclose(images.mean(axis=axes), mean, atol=0.15 * std)
        assert np.allclose(images.std(axis=axes), std, rtol=0.2)
    pixels = made((32, 32, 3), np.uint8, "raw,layout=nhwc")
    assert pixels.dtype == np.uint8
    assert 60 < pixels.std() < 70


def test_a_preprocessing_must_fit() -> None:
    with pytest.raises(InputError, match="is Nx64x64x3, --preprocess makes Nx3x64x3: change its layout"):
        made((64, 64, 3), preprocess="imagenet")
    with pytest.raises(OptionError, match="the model takes uint8: use raw"):
        made((3, 64, 64), np.uint8, "imagenet")


def test_other_inputs_are_plain() -> None:
    assert set(np.unique(made((7,), np.int64))) == {0, 1}
    assert set(np.unique(made((3, 32, 32), np.uint8))) == {0, 1}
    assert made((5,), np.bool_).dtype == np.bool_
    tokens = made((20, 16))
    assert abs(np.corrcoef(tokens[:, :-1].ravel(), tokens[:, 1:].ravel())[0, 1]) < 0.05
    spec = InputSpec("a", np.dtype(np.float32), (3, 16, 16), None)
    both = load_inputs("synthetic", (spec, replace(spec, name="b")), Reading(samples=2)).first()
    assert not np.array_equal(both["a"], both["b"])
    assert made((3, 2, 2)).shape == (200, 3, 2, 2)
