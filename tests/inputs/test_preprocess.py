"""Preprocessing of images: the text form, the arithmetic, and what does not fit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onnx_mdp.config import ProfileOptions, SearchOptions
from onnx_mdp.errors import OptionError
from onnx_mdp.inputs.base import InputSpec
from onnx_mdp.inputs.load import Reading, load_inputs
from onnx_mdp.inputs.preprocess import PRESETS, Preprocess, parse_preprocess

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
sides = st.integers(1, 600)


def test_presets_and_fields() -> None:
    assert all(parse_preprocess(name) == preset for name, preset in PRESETS.items())
    base = PRESETS["imagenet"]
    assert parse_preprocess("imagenet,filter=bicubic, layout=nhwc") == replace(base, filter="bicubic", layout="nhwc")
    assert parse_preprocess("imagenet,size=112").resize == (128,)
    assert parse_preprocess("imagenet,size=112,resize=112").resize == (112,)
    assert parse_preprocess("imagenet,resize=256x192") == replace(base, resize=(256, 192))
    full = "resize=256,size=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
    assert parse_preprocess(full) == base
    assert parse_preprocess("range=255,mean=128") == Preprocess(range=255.0, mean=(128.0,))
    assert [name for name, preset in PRESETS.items() if preset.is_raw] == ["raw"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagnet", "no preset 'imagnet'; there are imagenet, inception, "),
        ("", "no preset ''"),
        ("imagenet,crop=224", "no field 'crop'; there are resize, size, filter"),
        ("imagenet,nhwc", "no field 'nhwc'"),
        ("imagenet,size=0", "size=0 is not a size such as 224"),
        ("imagenet,size=a", "size=a is not a size"),
        ("resize=2x3x4", "resize=2x3x4 is not a size"),
        ("imagenet,mean=1/2", "mean=1/2 is not one number or three"),
        ("imagenet,mean=nan", "mean=nan is not one number or three"),
        ("imagenet,std=0", "std=0 is not one number above 0"),
        ("imagenet,layout=hwcn", "layout=hwcn is not nchw or nhwc"),
        ("imagenet,channels=rbg", "channels=rbg is not rgb or bgr or gray"),
        ("imagenet,range=2", "range=2 is not 1 or 255"),
        ("imagenet,filter=cubic", "filter=cubic is not bilinear or bicubic"),
        ("imagenet,channels=gray", "gray has one mean and one std"),
    ],
)
def test_what_is_no_preprocessing_is_named(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=f"^--preprocess {text}: {message}"):
        parse_preprocess(text)


def test_help_names_every_preset_and_field() -> None:
    help_text = SearchOptions.__doc__ or ""
    assert all(f"`{name}`" in help_text for name in PRESETS)
    assert all(f"{name}=" in help_text for name in Preprocess.__dataclass_fields__)
    assert "see `prune`" in (ProfileOptions.__doc__ or "")


@given(height=sides, width=sides, resize=st.none() | sides, size=st.none() | st.tuples(sides, sides))
def test_a_crop_lies_within_the_resized_image(
    height: int, width: int, resize: int | None, size: tuple[int, int] | None
) -> None:
    preprocess = Preprocess((resize,) if resize else None, size)
    found = preprocess.resized(height, width)
    rows, columns = preprocess.crop(*found)
    assert 0 <= rows.start < rows.stop <= found[0]
    assert 0 <= columns.start < columns.stop <= found[1]
    if size:
        assert (rows.stop - rows.start, columns.stop - columns.start) == size
    elif resize:
        assert min(found) == resize
    else:
        assert found == (height, width)


def prepared(tmp_path: Path, image: Image.Image, text: str, shape: tuple[int | None, ...]) -> np.ndarray:
    (tmp_path / "one").mkdir(exist_ok=True)
    image.save(tmp_path / "one" / "image.png")
    spec = InputSpec("x", np.dtype(np.float32), shape, None)
    return load_inputs(tmp_path / "one", (spec,), Reading(text)).first()["x"][0]


def picture(height: int, width: int) -> Image.Image:
    smooth = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    return Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)


def test_imagenet_is_what_torchvision_does(tmp_path: Path) -> None:
    """Resize the shorter side to 256 (the longer one rounded down), crop 224 from the center, normalize."""
    image = picture(300, 401)
    resized = image.resize((int(256 * 401 / 300), 256), Image.Resampling.BILINEAR)
    left = round((resized.width - 224) / 2)
    cropped = np.asarray(resized.crop((left, 16, left + 224, 240)))
    wanted = ((cropped / 255 - MEAN) / STD).transpose(2, 0, 1)
    assert np.allclose(prepared(tmp_path, image, "imagenet", (3, 224, 224)), wanted, atol=1e-5)


def test_layouts_orders_and_ranges(tmp_path: Path) -> None:
    image = picture(40, 32)
    plain = np.asarray(image).astype(np.float32)
    shape = (None, None, None)
    assert np.array_equal(prepared(tmp_path, image, "raw,layout=nhwc", shape), plain)
    assert np.allclose(prepared(tmp_path, image, "unit", shape), plain.transpose(2, 0, 1) / 255)
    assert np.array_equal(prepared(tmp_path, image, "raw,channels=bgr,layout=nhwc", shape), plain[..., ::-1])
    caffe = prepared(tmp_path, image, "caffe,size=32,resize=32", shape)
    assert np.allclose(caffe, (plain[4:36] - [123.68, 116.779, 103.939])[..., ::-1].transpose(2, 0, 1), atol=1e-3)
    inception = prepared(tmp_path, image, "inception,size=32,resize=32", shape)
    assert np.allclose(inception, (plain[4:36] / 127.5 - 1).transpose(2, 0, 1), atol=1e-5)
    gray = prepared(tmp_path, image, "mnist,size=32,resize=32", shape)
    assert np.allclose(gray[0], (np.asarray(image.convert("L"))[4:36] / 255 - 0.1307) / 0.3081, atol=1e-5)
    assert prepared(tmp_path, image, "unit,resize=16x24", shape).shape == (3, 16, 24)
    assert prepared(tmp_path, image, "unit,size=64x8", shape).shape == (3, 64, 8)


def test_images_of_every_mode(tmp_path: Path) -> None:
    for mode in ("1", "L", "P", "RGBA", "LA"):
        assert prepared(tmp_path, picture(16, 16).convert(mode), "unit", (3, 16, 16)).shape == (3, 16, 16)


def test_a_missing_pillow_names_the_remedy(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["PIL"] = None
import numpy as np
from onnx_mdp.inputs.base import InputSpec
from onnx_mdp.inputs.load import Reading, load_inputs
load_inputs(sys.argv[1], (InputSpec("x", np.dtype(np.float32), (3, 8, 8), None),), Reading("imagenet"))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "InputError" in done.stderr
    assert "images need Pillow: pip install 'onnx-mdp[images]'" in done.stderr
