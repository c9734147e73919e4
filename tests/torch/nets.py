"""Small pairs of models, a dense one and one that is no longer right, and inputs of both."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import make_node as node

from tests.conftest import build_model

WIDTH, CLASSES = 12, 5


def perturbed(model: onnx.ModelProto, noise: float = 0.3, seed: int = 1) -> onnx.ModelProto:
    """A copy whose float weights have noise in them."""
    rng = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and values.size > 1:
            changed = values + noise * values.std() * rng.standard_normal(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(values.dtype), tensor.name))
    return copy


def samples(count: int = 256, shape: tuple[int, ...] = (WIDTH,)) -> np.ndarray:
    """Seeded noise."""
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def residual(batch: int | str = "N", **more: object) -> onnx.ModelProto:
    """A residual block between two layers, with a BatchNormalization in it; logits and a second output."""
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["h"], name="first"),
        node("MatMul", ["h", "w1"], ["f1"], name="up"),
        node("BatchNormalization", ["f1", "scale", "bias", "mean", "var"], ["f2"], name="norm"),
        node("Relu", ["f2"], ["f3"], name="relu"),
        node("MatMul", ["f3", "w2"], ["f4"], name="down"),
        node("Add", ["h", "f4"], ["block"], name="join"),
        node("Gemm", ["block", "w3", "b3"], ["logits"], name="head"),
        node("Tanh", ["block"], ["latent"], name="tanh"),
    ]
    shapes = {"w0": (WIDTH, 8), "b0": (8,), "w1": (8, 16), "w2": (16, 8), "w3": (8, CLASSES), "b3": (CLASSES,)}
    weights = {name: np.random.default_rng(i).normal(0, 0.6, s) for i, (name, s) in enumerate(shapes.items())}
    norm = {"scale": np.ones(16), "bias": np.zeros(16), "mean": np.zeros(16), "var": np.full(16, 2.0)}
    stored = {name: values.astype(np.float32) for name, values in {**weights, **norm}.items()}
    return build_model(nodes, {"x": (batch, WIDTH)}, ["logits", "latent"], stored)


def convolution() -> onnx.ModelProto:
    """Images in, one number out, which is no logit."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["d"]),
        node("MatMul", ["d", "v"], ["y"]),
    ]
    return build_model(nodes, {"x": ("N", 3, 8, 8)}, ["y"], {"w": (6, 3, 3, 3), "v": (6, 1)})
