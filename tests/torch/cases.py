"""Small models of one operator each, in all the forms that differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


@dataclass
class Case:
    """An operator on given inputs; None is an absent one. Floats are fed, other types are stored in the model."""

    op: str
    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 21
    outputs: int = 1
    stored: tuple[int, ...] = ()

    def __str__(self) -> str:
        shapes = "_".join("x".join(map(str, np.shape(v))) for v in self.inputs if v is not None)
        attributes = "_".join(f"{k}={v}" for k, v in self.attributes.items() if isinstance(v, int | float | str | list))
        return f"{self.op}-{self.opset}-{shapes}-{attributes}".replace(" ", "")

    def model(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The model, and what it is fed."""
        arrays = {f"x{i}": np.asarray(v) for i, v in enumerate(self.inputs) if v is not None}
        feeds = {n: v for i, (n, v) in enumerate(arrays.items()) if v.dtype.kind == "f" and i not in self.stored}
        names = [f"x{i}" if v is not None else "" for i, v in enumerate(self.inputs)]
        node = helper.make_node(self.op, names, [f"y{i}" for i in range(self.outputs)], **self.attributes)
        types = {n: helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in feeds.items()}
        graph = helper.make_graph(
            [node],
            "case",
            [helper.make_tensor_value_info(n, types[n], v.shape) for n, v in feeds.items()],
            [onnx.ValueInfoProto(name=n) for n in node.output],
            [numpy_helper.from_array(v, n) for n, v in arrays.items() if n not in feeds],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model), feeds


def x(*shape: int) -> np.ndarray:
    """Seeded noise."""
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values: Any) -> np.ndarray:
    """Integers."""
    return np.array(values, np.int64)


def s(value: Any, dtype: Any = np.float32) -> np.ndarray:
    """A single number."""
    return np.array(value, dtype)


def every() -> Iterator[Case]:
    """All cases."""
    yield from pointwise()
    yield from moves()
    yield from indices()
    yield from windows()
    yield from norms()
    yield from reductions()
    yield from samples()
    yield from linears()
    yield from recurrents()
    yield from codes()
    yield from extras()


def pointwise() -> Iterator[Case]:
    """One element at a time."""
    for op in (
        *("Abs", "Neg", "Exp", "Erf", "Tanh", "Sigmoid", "Relu", "Ceil", "Floor", "Round", "Sign", "Sin", "Cos", "Tan"),
        *("Atan", "Sinh", "Cosh", "Asinh", "HardSwish", "Softplus", "Softsign", "Identity", "Reciprocal"),
        *("LeakyRelu", "Elu", "Celu", "Selu", "ThresholdedRelu", "HardSigmoid", "Gelu", "Mish", "IsNaN"),
    ):
        yield Case(op, [x(3, 40)])
    for op in ("Log", "Sqrt", "Acosh"):
        yield Case(op, [1 + np.abs(x(3, 40))])
    for op in ("Asin", "Acos", "Atanh"):
        yield Case(op, [np.tanh(x(3, 40))])
    yield Case("Round", [np.array([0.5, 1.5, 2.5, -0.5], np.float32)])
    for op, attributes in {
        "LeakyRelu": {"alpha": 0.2},
        "Elu": {"alpha": 0.7},
        "Celu": {"alpha": 0.7},
        "Selu": {"alpha": 1.5, "gamma": 1.2},
        "ThresholdedRelu": {"alpha": 0.3},
        "HardSigmoid": {"alpha": 0.4, "beta": 0.3},
        "Gelu": {"approximate": "tanh"},
    }.items():
        yield Case(op, [x(3, 40)], attributes)
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Greater", "Less", "Equal"):
        yield Case(op, [x(2, 3, 4), x(3, 1)])
    for op in ("GreaterOrEqual", "LessOrEqual"):
        yield Case(op, [x(2, 3, 4), x(3, 1)])
    for op in ("Max", "Sum", "Mean"):
        yield Case(op, [x(4), x(3, 1), x(1)])
    for op in ("Div", "Mod", "Add", "Equal"):
        yield Case(op, [i(7, -7, 7, -7), i(2, 2, -2, -2)])
    yield Case("Mod", [i(7, -7), i(3, 3)], {"fmod": 1})
    yield Case("Mod", [x(5), x(5)], {"fmod": 1})
    yield Case("Pow", [np.abs(x(2, 3)), s(2.5)])
    yield Case("Pow", [x(2, 3), s(2.0)], stored=(1,))
    yield Case("Pow", [i(2, 3), s(2.0)], stored=(1,))
    flags = np.array([[True, False, True], [False, False, True]])
    for op in ("And", "Or", "Xor"):
        yield Case(op, [flags, flags[:1]])
    yield Case("Not", [flags])
    yield Case("Where", [flags, x(2, 3), x(1)])
    yield Case("IsInf", [np.array([1, np.inf, -np.inf], np.float32)])
    yield Case("IsInf", [np.array([1, np.inf, -np.inf], np.float32)], {"detect_negative": 0})
    yield Case("Cast", [x(3) * 5], {"to": TensorProto.INT32})
    yield Case("Cast", [x(3)], {"to": TensorProto.DOUBLE})
    yield Case("Cast", [i(0, 1, 5)], {"to": TensorProto.BOOL})
    yield Case("CastLike", [x(3) * 5, i(1)])
    yield Case("Clip", [x(3, 4), s(-0.5), s(0.3)], opset=13)
    yield Case("Clip", [x(3, 4), None, s(0.3)], opset=13)
    yield Case("Clip", [x(3, 4)], {"min": -0.1, "max": 0.2}, opset=7)
    yield Case("Clip", [i(1, 5, 9), s(2, np.int64), s(6, np.int64)], opset=13)
    yield Case("PRelu", [x(2, 3, 4), x(3, 1)])
    yield Case("Dropout", [x(3, 4), s(0.5)], opset=13, stored=(1,))
    yield Case("Dropout", [x(3, 4)], {"ratio": 0.5}, opset=10)


def moves() -> Iterator[Case]:
    """Places and shapes."""
    for attributes in ({}, {"start": 1}, {"start": -2, "end": -1}):
        yield Case("Shape", [x(2, 3, 4)], attributes)
    yield Case("Size", [x(2, 3, 4)])
    yield Case("Reshape", [x(2, 3, 4), i(0, -1)])
    yield Case("Reshape", [x(0, 3), i(3, 0)], {"allowzero": 1})
    for axis in (0, 1, 2, -1, 3):
        yield Case("Flatten", [x(2, 3, 4)], {"axis": axis})
    yield Case("Flatten", [x(2, 3, 4)])
    yield Case("Squeeze", [x(1, 3, 1), i(-1)])
    yield Case("Squeeze", [x(1, 3, 1)])
    yield Case("Squeeze", [x(1, 3, 1)], {"axes": [0]}, opset=11)
    yield Case("Unsqueeze", [x(3, 4), i(0, -1)])
    yield Case("Unsqueeze", [x(3, 4)], {"axes": [3, 1]}, opset=11)
    yield Case("Transpose", [x(2, 3, 4)])
    yield Case("Transpose", [x(2, 3, 4)], {"perm": [1, 0, 2]})
    yield Case("Expand", [x(3, 1), i(2, 1, 4)])
    yield Case("Tile", [x(2, 3), i(2, 1)])
    for mode in ("DCR", "CRD"):
        yield Case("DepthToSpace", [x(2, 12, 2, 3)], {"blocksize": 2, "mode": mode})
    yield Case("SpaceToDepth", [x(2, 3, 4, 6)], {"blocksize": 2})
    yield Case("Slice", [x(5, 6), i(1), i(4)])
    yield Case("Slice", [x(5, 6), i(-1, 0), i(-(2**63), 2**31), i(1, 0), i(-2, 2)])
    yield Case("Slice", [x(5, 6)], {"starts": [1, -3], "ends": [100, -1], "axes": [1, 0]}, opset=9)
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield Case("Pad", [x(2, 4, 5), i(0, 1, 2, 0, 3, 1)], {"mode": mode})
    yield Case("Pad", [x(2, 4, 5), i(0, -1, 2, 0, 1, -2), s(7.0)], stored=(2,))
    yield Case("Pad", [x(2, 4, 5), i(2, 1), s(7.0), i(-1)], stored=(2,))
    yield Case("Pad", [x(2, 4, 5)], {"pads": [0, 1, 2, 0, 3, 1], "value": 2.0}, opset=10)
    yield Case("Constant", [], {"value_floats": [1.0, 2.0]})
    yield Case("Constant", [], {"value_int": 3})
    yield Case("ConstantOfShape", [i(2, 3)])
    yield Case("ConstantOfShape", [i(2, 3)], {"value": numpy_helper.from_array(i(4))})
    yield Case("Range", [s(1, np.int64), s(9, np.int64), s(3, np.int64)])
    yield Case("Range", [s(1.0), s(0.0), s(-0.3)], stored=(0, 1, 2))
    yield Case("EyeLike", [x(3, 4)], {"k": 1})
    yield Case("EyeLike", [x(3, 4)], {"dtype": TensorProto.INT64})
    yield Case("Trilu", [x(2, 3, 4)])
    yield Case("Trilu", [x(2, 3, 4), s(-1, np.int64)], {"upper": 0})
    yield Case("ReverseSequence", [x(4, 3, 2), i(2, 1, 4)])
    yield Case("ReverseSequence", [x(3, 4), i(2, 1, 4)], {"batch_axis": 0, "time_axis": 1})
    yield Case("Concat", [x(2, 3), x(2, 1)], {"axis": -1})
    yield Case("Split", [x(7, 3)], {"num_outputs": 3}, outputs=3)
    yield Case("Split", [x(6, 3)], opset=13, outputs=3)
    yield Case("Split", [x(6, 3), i(1, 2)], {"axis": 1}, outputs=2)
    yield Case("Split", [x(6, 3)], {"axis": 1, "split": [2, 1]}, opset=11, outputs=2)


def indices() -> Iterator[Case]:
    """Picked and placed elements."""
    yield Case("Gather", [x(4, 5), s(-1, np.int64)], {"axis": 1})
    yield Case("Gather", [x(4, 5), i([0, 2], [-1, 1])])
    yield Case("Gather", [i(4, 5), s(1, np.int64)])
    yield Case("GatherElements", [x(4, 5), i([0, -1], [2, 1])])
    yield Case("GatherND", [x(3, 4, 5), i([0, -1], [2, 1])])
    yield Case("GatherND", [x(3, 4, 5), i([0], [-1], [2])], {"batch_dims": 1})
    for reduction in ("none", "add", "mul", "max", "min"):
        yield Case("ScatterND", [x(4, 5), i([0], [-1]), x(2, 5)], {"reduction": reduction}, opset=18)
        yield Case("ScatterElements", [x(4, 5), i([0, -1], [2, 1]), x(2, 2)], {"reduction": reduction}, opset=18)
    yield Case("ScatterND", [x(3, 4, 5), i([[0, 1]], [[2, 3]]), x(2, 1, 5)], opset=13)
    yield Case("Scatter", [x(4, 5), i([0, 1], [2, 1]), x(2, 2)], {"axis": 1}, opset=9)
    yield Case("TopK", [x(3, 6), i(2)], outputs=2)
    yield Case("TopK", [np.array([[1, 2, 2, 1, 2]], np.float32), i(4)], {"largest": 0}, outputs=2, stored=(0,))
    yield Case("TopK", [x(3, 6)], {"k": 2, "axis": 0}, opset=9, outputs=2)
    yield Case("NonZero", [np.array([[1, 0], [0, 2]], np.float32)])
    yield Case("Compress", [x(3, 4), np.array([True, False, True])], {"axis": 0})
    yield Case("Compress", [x(3, 4), np.array([True, False, True])])
    yield Case("OneHot", [i(0, -1, 2), i(3), np.array([0.5, 2.0], np.float32)])
    yield Case("OneHot", [i([0, 1], [2, 1]), s(3, np.int64), i(0, 1)], {"axis": 0})
    for attributes in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        yield Case("CumSum", [x(3, 4), s(1, np.int64)], attributes)
    boxes = np.abs(x(2, 20, 4)) + np.array([0, 0, 1, 1], np.float32)
    limits = [i(3), np.array([0.3], np.float32), np.array([0.1], np.float32)]
    yield Case("NonMaxSuppression", [boxes, np.abs(x(2, 3, 20)), *limits], stored=(2, 3, 4))
    yield Case("NonMaxSuppression", [boxes, x(2, 3, 20), *limits[:2]], {"center_point_box": 1}, stored=(2, 3))
    rois = np.array([[1, 1, 9, 7], [0, 2, 12, 30], [-3, -3, 2, 2]], np.float32)
    sized = {"output_height": 3, "output_width": 2}
    for more in ({}, {"sampling_ratio": 2}, {"coordinate_transformation_mode": "output_half_pixel"}):
        yield Case("RoiAlign", [x(2, 3, 10, 12), rois, i(0, 1, 1)], {**sized, "spatial_scale": 0.7, **more})
    yield Case("RoiAlign", [x(2, 3, 10, 12), rois, i(0, 1, 1)], {**sized, "spatial_scale": 0.7}, opset=10)
    yield Case("RoiAlign", [x(2, 3, 10, 12), rois, i(0, 1, 1)], {**sized, "mode": "max"}, stored=(1,))
    yield Case("RoiAlign", [x(2, 3, 10, 12), rois[:0], i()], sized, stored=(1,))


def windows() -> Iterator[Case]:
    """Convolutions and pools."""
    image, kernel = x(2, 4, 9, 8), x(6, 2, 3, 2)
    for more in (
        *({}, {"pads": [1, 0, 1, 0]}, {"pads": [1, 0, 0, 1]}, {"strides": [2, 3]}, {"dilations": [2, 1]}),
        *({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"}),
    ):
        yield Case("Conv", [image, kernel, x(6)], {"group": 2, **more})
    yield Case("Conv", [x(1, 3, 9), x(4, 3, 3)])
    yield Case("Conv", [x(1, 3, 5, 5, 5), x(4, 3, 3, 2, 3), x(4)], {"pads": [1, 0, 1, 1, 1, 1]})
    kernel = x(4, 3, 3, 2)
    for more in (
        *({}, {"pads": [1, 0, 1, 0]}, {"pads": [1, 0, 0, 1]}, {"strides": [2, 3], "output_padding": [1, 2]}),
        *({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        *({"strides": [2, 2], "output_shape": [18, 16]}, {"dilations": [2, 1]}),
    ):
        yield Case("ConvTranspose", [image, kernel, x(6)], {"group": 2, **more})
    yield Case("ConvTranspose", [x(1, 4, 9), x(4, 3, 3)], {"strides": [2]})
    for op in ("MaxPool", "AveragePool"):
        for more in (
            *({}, {"pads": [1, 0, 1, 1]}, {"strides": [2, 3], "ceil_mode": 1}, {"auto_pad": "SAME_UPPER"}),
            {"pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1},
            *([{"pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1}] * (op[0] == "A")),
            *([{"pads": [1, 0, 1, 1], "count_include_pad": 1}] * (op[0] == "A")),
            *([{"dilations": [2, 1]}] * (op[0] == "M")),
        ):
            yield Case(op, [image], {"kernel_shape": [3, 2], **more})
        yield Case(op, [x(1, 2, 9)], {"kernel_shape": [3], "strides": [2]})
    yield Case("LpPool", [image], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 0]})
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield Case(op, [image])


def norms() -> Iterator[Case]:
    """Statistics, and shares of one."""
    c = [x(4), x(4)]
    yield Case("BatchNormalization", [x(2, 4, 3, 3), *c, x(4), np.abs(x(4)) + 0.1], opset=15)
    yield Case("BatchNormalization", [x(2, 4), *c, x(4), np.abs(x(4)) + 0.1], {"epsilon": 0.1}, opset=9)
    training = {"training_mode": 1, "momentum": 0.7}
    yield Case("BatchNormalization", [x(5, 4, 3), *c, x(4), np.abs(x(4)) + 0.1], training, opset=15, outputs=3)
    yield Case("InstanceNormalization", [x(2, 4, 3, 3), *c])
    yield Case("GroupNormalization", [x(2, 4, 3, 3), x(2), x(2)], {"num_groups": 2}, opset=18)
    yield Case("GroupNormalization", [x(2, 4, 3, 3), *c], {"num_groups": 2}, opset=21)
    yield Case("LayerNormalization", [x(2, 3, 4), *c])
    yield Case("LayerNormalization", [x(2, 3, 4), x(4)], {"epsilon": 0.1})
    yield Case("LayerNormalization", [x(2, 3, 4), x(3, 4), x(3, 4)], {"axis": 1}, outputs=3)
    yield Case("RMSNormalization", [x(2, 3, 4), x(4)], {"epsilon": 0.1}, opset=23)
    for size in (3, 5):
        yield Case("LRN", [x(2, 7, 3, 3)], {"size": size, "alpha": 0.3, "bias": 0.8})
    yield Case("MeanVarianceNormalization", [x(2, 3, 4, 4)])
    for p in (1, 2):
        yield Case("LpNormalization", [x(2, 3, 4)], {"p": p, "axis": 1})
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield Case(op, [x(2, 3, 4)])
        yield Case(op, [x(2, 3, 4)], {"axis": 1})
        yield Case(op, [x(2, 3, 4)], opset=11)
        yield Case(op, [x(2, 3, 4)], {"axis": 2}, opset=11)


def reductions() -> Iterator[Case]:
    """Axes that leave."""
    names = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
    for name in names:
        values = np.abs(x(2, 3, 4))
        yield Case(f"Reduce{name}", [values])
        yield Case(f"Reduce{name}", [values, i(-1, 0)], {"keepdims": 0}, opset=18)
        yield Case(f"Reduce{name}", [values], {"axes": [1]}, opset=11)
    yield Case("ReduceSum", [x(2, 3)], {"noop_with_empty_axes": 1})
    for name in ("Sum", "Mean", "Max", "Prod"):
        yield Case(f"Reduce{name}", [np.array([[1, -4], [2, 3]], np.int32)], {"axes": [1]}, opset=11)
    for op in ("ArgMax", "ArgMin"):
        for more in ({}, {"axis": -1, "keepdims": 0}, {"axis": 1, "select_last_index": 1}):
            yield Case(op, [np.array([[1, 2, 2, 1], [3, 3, 0, 0]], np.float32)], more)


def samples() -> Iterator[Case]:
    """Images between their elements."""
    image, none = x(1, 2, 5, 6), np.zeros(0, np.float32)
    up, down = np.array([1, 1, 2.3, 2], np.float32), np.array([1, 1, 0.6, 0.7], np.float32)
    modes = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for transform in modes:
        for scales in (up, down):
            for mode in ("nearest", "linear", "cubic"):
                more = {"coordinate_transformation_mode": transform, "mode": mode}
                yield Case("Resize", [image, none, scales], more, opset=19, stored=(1, 2))
    for rounding in ("floor", "ceil", "round_prefer_ceil"):
        more = {"nearest_mode": rounding, "coordinate_transformation_mode": "asymmetric"}
        yield Case("Resize", [image, none, up], more, stored=(1, 2))
    sizes = i(1, 2, 7, 4)
    for more in ({"mode": "linear"}, {"mode": "cubic", "cubic_coeff_a": -0.5}, {"mode": "cubic", "exclude_outside": 1}):
        yield Case("Resize", [image, None, None, sizes], more)
    for mode in ("linear", "cubic"):
        yield Case("Resize", [image, none, down], {"mode": mode, "antialias": 1}, stored=(1, 2))
        yield Case("Resize", [image, none, up], {"mode": mode, "antialias": 1}, stored=(1, 2))
    for policy in ("not_larger", "not_smaller"):
        more = {"mode": "linear", "keep_aspect_ratio_policy": policy, "axes": [2, 3]}
        yield Case("Resize", [image, None, None, i(8, 8)], more)
    window = np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.2], np.float32)
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear", "extrapolation_value": 3.0}
    yield Case("Resize", [image, window, None, sizes], crop, stored=(1,))
    yield Case("Resize", [image, up], {"mode": "nearest"}, opset=10, stored=(1,))
    yield Case("Upsample", [image, np.array([1, 1, 2, 3], np.float32)], {"mode": "nearest"}, opset=9, stored=(1,))
    grid = np.clip(x(1, 3, 4, 2), -1.23, 1.17)
    for padding in ("zeros", "border", "reflection"):
        for mode in ("linear", "nearest", "cubic"):
            for aligned in (0, 1):
                more = {"padding_mode": padding, "mode": mode, "align_corners": aligned}
                yield Case("GridSample", [image, grid], more, opset=20)
    yield Case("GridSample", [image, grid], {"mode": "bilinear"}, opset=16)
    for aligned in (0, 1):
        yield Case("AffineGrid", [x(2, 2, 3), i(2, 1, 4, 5)], {"align_corners": aligned})


def linears() -> Iterator[Case]:
    """Products."""
    yield Case("Gemm", [x(2, 3), x(3, 4), x(4)])
    yield Case("Gemm", [x(3, 2), x(4, 3), x(2, 1)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0})
    yield Case("Gemm", [x(2, 3), x(3, 4)])
    for a, b in (((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 1, 2, 3), (5, 3, 4)), ((3,), (3, 4)), ((2, 3), (3,))):
        yield Case("MatMul", [x(*a), x(*b)])
    for equation in ("bij, bjk -> bik", "...ij,...jk->...ik", "bij,bik->jk"):
        yield Case("Einsum", [x(2, 3, 4), x(2, 4, 5) if equation[-2:] == "ik" else x(2, 3, 5)], {"equation": equation})
    yield Case("DFT", [x(2, 8, 1)], {"axis": 1}, opset=17)
    yield Case("DFT", [x(2, 8, 2), None, s(1, np.int64)], {"inverse": 1}, opset=20)
    yield Case("DFT", [x(2, 8, 1), s(8, np.int64), s(1, np.int64)], {"onesided": 1}, opset=20)
    yield Case("Col2Im", [x(1, 10, 25), i(5, 6), i(1, 2)], opset=18)
    q, k = x(2, 4, 5, 8), x(2, 2, 6, 8)
    for more in ({}, {"scale": 0.3}, {"is_causal": 1}, {"softcap": 2.0}):
        yield Case("Attention", [q, k, x(2, 2, 6, 7)], more, opset=23)
    yield Case("Attention", [q, k, x(2, 2, 6, 7), x(5, 6)], opset=23)
    yield Case("Attention", [q, k, x(2, 2, 6, 7), RNG.random((5, 6)) > 0.3], opset=23)
    past = [x(2, 2, 3, 8), x(2, 2, 3, 7)]
    yield Case("Attention", [q, k, x(2, 2, 6, 7), None, *past], opset=23, outputs=3)
    heads = {"q_num_heads": 4, "kv_num_heads": 2}
    yield Case("Attention", [x(2, 5, 32), x(2, 6, 16), x(2, 6, 14)], heads, opset=23)


def recurrents() -> Iterator[Case]:
    """Sequences."""
    t, n, wide, hidden = 5, 2, 3, 4
    for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        outputs = 3 if op == "LSTM" else 2
        for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            weights = [x(d, gates * hidden, wide), x(d, gates * hidden, hidden)]
            more = {"hidden_size": hidden, "direction": direction}
            yield Case(op, [x(t, n, wide), *weights], more, outputs=outputs)
            lengths = np.array([3, 5], np.int32)
            start = [x(d, n, hidden)] * (outputs - 1)
            bias = x(d, 2 * gates * hidden)
            yield Case(op, [x(t, n, wide), *weights, bias, lengths, *start], more, outputs=outputs)
    weights = [x(1, 3 * hidden, wide), x(1, 3 * hidden, hidden), x(1, 6 * hidden)]
    yield Case("GRU", [x(t, n, wide), *weights], {"hidden_size": hidden, "linear_before_reset": 1}, outputs=2)
    weights = [x(1, 4 * hidden, wide), x(1, 4 * hidden, hidden), x(1, 8 * hidden)]
    start = [x(1, n, hidden), x(1, n, hidden), x(1, 3 * hidden)]
    yield Case("LSTM", [x(t, n, wide), *weights, None, *start], {"hidden_size": hidden}, outputs=3)
    more = {"hidden_size": hidden, "activations": ["HardSigmoid", "Relu", "Softsign"]}
    yield Case("LSTM", [x(t, n, wide), *weights], more, outputs=3)


def codes() -> Iterator[Case]:
    """Codes for numbers."""
    yield Case("QuantizeLinear", [3 * x(3, 4), s(0.02), s(3, np.int8)], stored=(1,))
    yield Case("QuantizeLinear", [x(3, 4), s(0.02)], stored=(1,))
    scales = np.array([0.1, 0.2, 0.3], np.float32)
    yield Case("QuantizeLinear", [x(3, 4), scales, np.array([1, 2, 3], np.uint8)], {"axis": 0}, stored=(1,))
    stored = np.arange(12, dtype=np.int8).reshape(3, 4)
    yield Case("DequantizeLinear", [stored, scales, np.array([1, 2, 3], np.int8)], {"axis": 0}, stored=(1,))
    yield Case("DequantizeLinear", [stored.astype(np.int32), s(0.5)], stored=(1,))


def extras() -> Iterator[Case]:
    """What came later: behind all others, whose numbers stay what they were."""
    yield Case("SimplifiedLayerNormalization", [x(2, 3, 4), x(4)], {"epsilon": 0.1}, opset=17)
    mask = np.array([[True, False, True], [False, False, False]])  # the second query sees nothing
    yield Case("Attention", [x(1, 2, 2, 4), x(1, 2, 3, 4), x(1, 2, 3, 5), mask], opset=23)
