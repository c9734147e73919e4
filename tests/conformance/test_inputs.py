"""Calibration inputs: every accepted form, and every way not to fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_mdp.errors import InputError
from onnx_mdp.inputs.arrays import InputSpec, load_inputs

IMAGE = InputSpec("x", np.dtype(np.float32), (3, 8, 8), None)
TOKENS = InputSpec("ids", np.dtype(np.int64), (5,), 2)
images = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)


def test_every_sample_comes_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=images)
    np.save(tmp_path / "x.npy", images)
    for source in (tmp_path / "x.npz", str(tmp_path / "x.npy"), {"x": images}, images):
        inputs = load_inputs(source, (IMAGE,))
        batches = list(inputs.batches())
        assert len(batches) == inputs.steps
        assert np.array_equal(np.concatenate([b["x"] for b in batches]), images)


def test_fixed_batch_is_honoured() -> None:
    inputs = load_inputs({"ids": np.zeros((7, 5), np.int64)}, (TOKENS,))
    assert [len(b["ids"]) for b in inputs.batches()] == [2, 2, 2]


def test_float64_is_converted() -> None:
    assert load_inputs(images.astype(np.float64), (IMAGE,)).arrays["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"y": images}, "has y; the model's inputs are x"),
        ({}, "lacks x"),
        ({"x": images[:, :2]}, r"is 10x2x8x8, the model takes Nx3x8x8"),
        ({"x": images[0]}, "the model takes Nx3x8x8"),
        ({"x": images[:0]}, "holds 0 samples"),
        ({"x": images.astype(np.uint8)}, "is uint8, the model takes float32"),
    ],
    ids=["unknown name", "missing", "shape", "no samples axis", "empty", "type"],
)
def test_what_does_not_fit_is_named(source: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_inputs(source, (IMAGE,))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_inputs(tmp_path / "absent.npz", (IMAGE,))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="not a readable"):
        load_inputs(tmp_path / "text.npz", (IMAGE,))


def test_several_inputs_need_names_and_equal_counts() -> None:
    with pytest.raises(InputError, match=r"give a \.npz with all"):
        load_inputs(images, (IMAGE, TOKENS))
    with pytest.raises(InputError, match="different numbers of samples"):
        load_inputs({"x": images, "ids": np.zeros((4, 5), np.int64)}, (IMAGE, TOKENS))


def test_parts_of_inputs_are_inputs() -> None:
    spec = InputSpec("x", np.dtype(np.float32), (2,), None)
    whole = load_inputs({"x": np.arange(20, dtype=np.float32).reshape(10, 2)}, (spec,))
    first, rest = whole.take(0, 3), whole.take(3, 10)
    assert (first.count, rest.count) == (3, 7)
    seen = np.concatenate([feeds["x"] for part in (first, rest) for feeds in part.batches()])
    np.testing.assert_array_equal(seen, whole.arrays["x"])
