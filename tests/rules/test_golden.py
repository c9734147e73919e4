"""Every operator's rule, as the one line it prints, refusals included. The lines are data: golden/rules.txt."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_mdp.graph.dims import follow_dims
from onnx_mdp.graph.explicit import make_explicit
from onnx_mdp.graph.network import read_network
from onnx_mdp.rules import Refusal, View, registered, text_of
from onnx_mdp.rules.line import parse
from onnx_mdp.rules.registry import rule

GOLDEN = Path(__file__).parent.parent / "golden" / "rules.txt"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One node: shapes of its float inputs (arrays are constants, None is absent), attributes, opset, outputs."""

    op: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 18
    outputs: int = 1
    note: str = ""
    domain: str = ""

    @property
    def key(self) -> str:
        """The name of the case in the golden file."""
        name = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{name} {self.note}".strip() + (f" opset {self.opset}" if self.opset != 18 else "")


def ints(*values: int) -> np.ndarray:
    """An int64 vector."""
    return np.array(values, np.int64)


def codes(*shape: int) -> np.ndarray:
    """A tensor of 8-bit codes."""
    return np.zeros(shape, np.uint8)


X = (2, 8, 6, 6)
CODE = np.uint8(3)
LENGTHS, TOTAL = np.array([4, 4], np.int32), np.array([5], np.int32)
CASES = [
    Case("Conv", (X, (4, 8, 3, 3), (4,))),
    Case("Conv", (X, (4, 8, 1, 1)), note="no bias"),
    Case("Conv", (X, (12, 2, 3, 3), (12,)), {"group": 4}, note="grouped"),
    Case("Conv", (X, (16, 1, 3, 3)), {"group": 8}, note="depth multiplier"),
    Case("Conv", ((2, 8, 6), (4, 8, 3)), note="1-D"),
    Case("ConvTranspose", (X, (8, 4, 2, 2), (4,))),
    Case("ConvTranspose", (X, (8, 3, 2, 2)), {"group": 2}, note="grouped"),
    Case("MatMul", ((2, 5, 8), (8, 4))),
    Case("MatMul", ((2, 3, 5, 8), (2, 3, 8, 4)), note="batched"),
    Case("MatMul", ((2, 3, 5, 8), (1, 3, 8, 4)), note="broadcast"),
    Case("MatMul", ((5, 8), (8,)), note="vector"),
    Case("Gemm", ((5, 8), (4, 8), (4,)), {"transB": 1}),
    Case("Gemm", ((8, 5), (8, 4), (1, 4)), {"transA": 1}, note="transA"),
    Case("Add", ((2, 5, 8), (8,))),
    Case("Add", (X, (8, 1, 1)), note="per channel"),
    Case("Sub", ((2, 5), (2, 5))),
    Case("Mul", (X, (2, 8, 1, 1)), note="gate"),
    Case("Div", ((2, 5), ())),
    Case("Pow", ((2, 5), ())),
    Case("Max", ((2, 5), (5,))),
    Case("Where", (np.ones((2, 5), bool), (2, 5), (5,))),
    Case("PRelu", (X, (8, 1, 1))),
    Case("Relu", (X,)),
    Case("Sigmoid", (X,)),
    Case("Clip", (X, np.float32(0), np.float32(6))),
    Case("Clip", (X, np.float32(1)), note="above zero"),
    Case("BatchNormalization", (X, (8,), (8,), (8,), (8,))),
    Case("BatchNormalization", (X, (8,), (8,), (8,), (8,)), {"training_mode": 1}, note="training", outputs=3),
    Case("LayerNormalization", ((2, 5, 8), (8,), (8,))),
    Case("LayerNormalization", ((2, 5, 8), (5, 8)), {"axis": 1}, note="two axes"),
    Case("LayerNormalization", ((2, 5, 8), (8,), (8,)), opset=13, note="of onnxruntime"),
    Case("SimplifiedLayerNormalization", ((2, 5, 8), (8,)), opset=17),
    Case("InstanceNormalization", (X, (8,), (8,))),
    Case("Softmax", ((2, 5, 8),)),
    Case("Softmax", ((2, 5, 8),), {"axis": 1}, opset=11),
    Case("MaxPool", (X,), {"kernel_shape": [2, 2]}),
    Case("MaxPool", (X,), {"kernel_shape": [2, 2]}, note="with indices", outputs=2),
    Case("GlobalAveragePool", (X,)),
    Case("ReduceMean", (X, ints(2, 3)), {"keepdims": 0}),
    Case("ReduceMean", (X,), {"axes": [1]}, opset=13, note="over channels"),
    Case("ReduceSum", ((2, 5, 8),), note="over all"),
    Case("Resize", (X, None, np.array([1, 1, 2, 2], np.float32))),
    Case("Resize", (X, None, None, ints(2, 8, 12, 12)), note="sizes"),
    Case("Reshape", ((2, 5, 24), ints(2, 5, 3, 8))),
    Case("Reshape", ((2, 5, 24), ints(0, -1, 3, 8)), note="copy and rest"),
    Case("Reshape", ((2, 5, 24), None), note="computed shape"),
    Case("Flatten", (X,)),
    Case("Transpose", (X,), {"perm": [0, 2, 3, 1]}),
    Case("Squeeze", ((1, 5, 8), ints(0))),
    Case("Squeeze", ((1, 5, 8),), note="no axes"),
    Case("Unsqueeze", ((5, 8), ints(0, 2))),
    Case("Expand", ((5, 1, 8), ints(5, 3, 8))),
    Case("Shape", ((5, 8),)),
    Case("ConstantOfShape", (ints(5, 8),)),
    Case("Concat", (X, (2, 3, 6, 6)), {"axis": 1}),
    Case("Split", ((2, 24), ints(8, 16)), {"axis": 1}, outputs=2),
    Case("Split", ((2, 24),), {"axis": -1, "num_outputs": 3}, outputs=3, note="equal parts"),
    Case("Slice", ((2, 24), ints(8), ints(16), ints(1))),
    Case("Slice", ((2, 24), ints(0), ints(2**63 - 1), ints(1), ints(2)), note="strided"),
    Case("Slice", ((2, 24), ints(-8), ints(2**63 - 1), ints(1)), note="from the end"),
    Case("Pad", (X, ints(0, 4, 0, 0, 0, 4, 0, 0))),
    Case("Pad", (X, ints(0, 0, 1, 1, 0, 0, 1, 1)), {"mode": "reflect"}, note="reflect"),
    Case("Gather", ((3, 5, 8), np.int64(0)), note="one position"),
    Case("Gather", ((100, 8), np.zeros((2, 5), np.int64)), note="embedding"),
    Case("Erf", ((2, 5),)),
    Case("Pow", ((2, 5), np.float32(2)), note="square"),
    Case("Clip", (X, None, np.float32(6)), note="no minimum"),
    Case("GatherND", ((2, 5, 8, 3), ints(0, 1)), note="one slice"),
    Case("GatherND", ((2, 5, 8), np.zeros((2, 7, 1), np.int64)), {"batch_dims": 1}, note="batched"),
    Case("GatherElements", ((2, 5, 8), np.zeros((2, 3, 8), np.int64)), {"axis": 1}),
    Case("ScatterND", ((4, 5, 8), np.zeros((3, 1), np.int64), (3, 5, 8))),
    Case("ScatterElements", ((2, 5, 8), np.zeros((2, 3, 8), np.int64), (2, 3, 8)), {"axis": 1}),
    Case("TopK", ((2, 5), ints(2)), outputs=2),
    Case("ArgMax", ((2, 5, 8),), {"axis": 1, "keepdims": 0}),
    Case("CumSum", ((2, 5), np.int64(1))),
    Case("ReverseSequence", ((5, 2, 8), ints(5, 3))),
    Case("Trilu", ((2, 5, 5),)),
    Case("EyeLike", ((5, 5),)),
    Case("OneHot", ((2, 5), np.int64(10), np.array([0, 1], np.float32))),
    Case("Range", (np.int64(0), np.int64(5), np.int64(1))),
    Case("NonZero", ((2, 5),)),
    Case("Tile", ((2, 4, 8), ints(1, 3, 1))),
    Case("DepthToSpace", ((2, 32, 3, 3),), {"blocksize": 2}),
    Case("DepthToSpace", ((2, 32, 3, 3),), {"blocksize": 2, "mode": "CRD"}, note="CRD"),
    Case("SpaceToDepth", ((2, 8, 6, 6),), {"blocksize": 2}),
    Case("Col2Im", ((2, 32, 9), ints(6, 6), ints(2, 2)), {"strides": [2, 2]}),
    Case("GridSample", (X, (2, 4, 4, 2)), opset=20),
    Case("AffineGrid", ((2, 2, 3), ints(2, 8, 6, 6)), opset=20),
    Case("RoiAlign", (X, (5, 4), ints(0, 0, 0, 1, 1)), {"output_height": 3, "output_width": 3}),
    Case("MaxRoiPool", (X, (5, 5)), {"pooled_shape": [3, 3]}),
    Case("DFT", ((2, 16, 1),), opset=17),
    Case("DFT", ((2, 5, 16, 1), None, np.int64(1)), opset=20),
    Case("LSTM", ((7, 2, 8), (1, 16, 8), (1, 16, 4), (1, 32)), {"hidden_size": 4}, outputs=2),
    Case("Einsum", ((2, 3, 5, 8), (3, 7, 8)), {"equation": "bhqc,hkc->bhqk"}),
    Case("Einsum", ((2, 3, 5, 8), (2, 3, 8, 7)), {"equation": "...ic,...cj->...ij"}, note="ellipsis"),
    Case("ReduceMax", ((2, 5, 8), ints(1))),
    Case("RMSNormalization", ((2, 5, 8), (8,)), opset=23),
    Case("GroupNormalization", (X, (8,), (8,)), {"num_groups": 4}, opset=21),
    Case("LpNormalization", ((2, 8),)),
    Case("MeanVarianceNormalization", (X,)),
    Case("LRN", (X,), {"size": 3}),
    Case("Attention", ((2, 5, 12), (2, 7, 12), (2, 7, 16)), {"q_num_heads": 4, "kv_num_heads": 4}, opset=23),
    Case("Attention", ((2, 8, 5, 3), (2, 2, 7, 3), (2, 2, 7, 4), (5, 7)), opset=23, note="grouped queries"),
    Case(
        *("Attention", ((2, 5, 24), (2, 5, 6), (2, 5, 6))),
        *({"q_num_heads": 8, "kv_num_heads": 2}, 23, 1, "grouped queries packed"),
    ),
    Case("Attention", ((2, 8, 5, 3), (2, 2, 7, 3), (2, 2, 7, 4)), {"is_causal": 1}, 23, 1, "causal"),
    Case("RotaryEmbedding", ((2, 4, 5, 8), (10, 4), (10, 4), np.zeros((2, 5), np.int64)), opset=23),
    Case("Gelu", ((2, 5),), domain="com.microsoft"),
    Case("BiasGelu", ((2, 5, 8), (8,)), domain="com.microsoft"),
    Case("FastGelu", ((2, 5, 8),), domain="com.microsoft"),
    Case("QuickGelu", ((2, 5),), domain="com.microsoft"),
    Case("FusedConv", (X, (4, 8, 1, 1), (4,), (2, 4, 6, 6)), {"activation": "Relu"}, domain="com.microsoft"),
    Case("FusedConv", (X, (4, 8, 1, 1)), {"activation": "Sigmoid"}, note="no bias", domain="com.microsoft"),
    Case("FusedGemm", ((5, 8), (8, 4), (4,)), {"activation": "Relu"}, domain="com.microsoft"),
    Case("FusedMatMul", ((2, 3, 5, 8), (2, 3, 4, 8)), {"transB": 1}, domain="com.microsoft"),
    Case(
        *("FusedMatMul", ((8, 2, 3, 5), (4, 2, 3, 8)), {"transA": 1, "transBatchA": 1, "transB": 1, "transBatchB": 1}),
        *(18, 1, "rows outermost", "com.microsoft"),
    ),
    Case("SkipLayerNormalization", ((2, 5, 8), (5, 8), (8,), (8,), (8,)), domain="com.microsoft"),
    Case("SkipSimplifiedLayerNormalization", ((2, 5, 8), (2, 5, 8), (8,)), outputs=4, domain="com.microsoft"),
    Case("SimplifiedLayerNormalization", ((2, 5, 8), (8,)), domain="com.microsoft"),
    Case(
        *("EmbedLayerNormalization", ((2, 5), None, (100, 8), (10, 8), None, (8,), (8,))),
        domain="com.microsoft",
    ),
    Case("Attention", ((2, 5, 8), (8, 24), (24,)), {"num_heads": 2}, domain="com.microsoft"),
    Case("Attention", ((2, 5, 8), (8, 24), (24,)), {"num_heads": 2}, outputs=2, note="cache", domain="com.microsoft"),
    Case(
        *("MultiHeadAttention", ((2, 5, 8), (2, 7, 8), (2, 7, 12), (28,)), {"num_heads": 2}),
        domain="com.microsoft",
    ),
    Case(
        *("MultiHeadAttention", ((2, 5, 8), (2, 5, 8), (2, 5, 8)), {"num_heads": 2, "unidirectional": 1}),
        note="causal",
        domain="com.microsoft",
    ),
    *(
        Case("GroupQueryAttention", inputs, {"num_heads": 4, "kv_num_heads": 2}, 18, outputs, note, "com.microsoft")
        for inputs, outputs, note in (
            (((2, 5, 32), (2, 5, 16), (2, 5, 16), None, None, LENGTHS, TOTAL), 1, ""),
            (((2, 5, 64), None, None, None, None, LENGTHS, TOTAL), 1, "packed"),
            (((2, 5, 32), (2, 5, 16), (2, 5, 16), None, None, LENGTHS, TOTAL), 3, "cache"),
            (((2, 5, 32), (2, 5, 16), (2, 5, 16), None, None, LENGTHS, TOTAL + 1), 1, "other length"),
            (((2, 5, 32), (2, 5, 16), (2, 5, 16), None, None, LENGTHS, TOTAL, *[None] * 7, (8,), (8,)), 1, "norms"),
            (
                (
                    (2, 5, 32),
                    (2, 5, 16),
                    (2, 5, 16),
                    None,
                    None,
                    LENGTHS,
                    TOTAL,
                    (9, 4),
                    (9, 4),
                    None,
                    (1, 4, 5, 5),
                    (4,),
                ),
                *(1, "rotary, bias and sink"),
            ),
        )
    ),
    Case(
        *("RotaryEmbedding", ((2, 5, 32), np.zeros((2, 5), np.int64), (10, 4), (10, 4))),
        domain="com.microsoft",
    ),
    Case("DeformConv", (X, (4, 8, 3, 3), (2, 18, 4, 4), (4,), (2, 9, 4, 4)), opset=19),
    Case("QuantizeLinear", (X, (), CODE)),
    Case("DequantizeLinear", (codes(4, 8, 3, 3), (4,), codes(4)), {"axis": 0}),
    Case(
        "DequantizeLinear", (codes(8, 64), (8, 2), codes(8, 2)), {"axis": 1, "block_size": 32}, opset=21, note="blocks"
    ),
    Case("QLinearConv", (codes(*X), (), CODE, codes(4, 8, 3, 3), (4,), codes(4), (), CODE, np.zeros(4, np.int32))),
    Case("ConvInteger", (codes(*X), codes(4, 8, 1, 1), CODE)),
    Case("QLinearMatMul", (codes(2, 5, 8), (), CODE, codes(8, 4), (4,), codes(4), (), CODE)),
    Case("MatMulInteger", (codes(2, 5, 8), codes(8, 4), CODE, codes(4))),
    Case("DynamicQuantizeLinear", ((2, 5, 8),), outputs=3),
    Case("MatMulIntegerToFloat", (codes(5, 8), codes(8, 4), (), (4,), CODE, codes(4)), domain="com.microsoft"),
    Case("DynamicQuantizeMatMul", ((5, 8), codes(8, 4), (4,), codes(4), (4,)), domain="com.microsoft"),
    Case("QuantizeLinear", (X, (), CODE), domain="com.microsoft"),
    Case("DequantizeLinear", (codes(4, 8), (), CODE), domain="com.microsoft"),
    Case(
        *("QGemm", (codes(5, 8), (), CODE, codes(4, 8), (4,), codes(4), np.zeros(4, np.int32), (), CODE)),
        *({"transB": 1}, 18, 1, "", "com.microsoft"),
    ),
    Case("QLinearAdd", (codes(2, 5), (), CODE, codes(5), (), CODE, (), CODE), domain="com.microsoft"),
    Case("QLinearMul", (codes(2, 5), (), CODE, codes(5), (), CODE, (), CODE), domain="com.microsoft"),
    Case("QLinearSigmoid", (codes(2, 5), (), CODE, (), CODE), domain="com.microsoft"),
    Case("QLinearLeakyRelu", (codes(2, 5), (), CODE, (), CODE), domain="com.microsoft"),
    Case("QLinearSoftmax", (codes(2, 5), (), CODE, (), CODE), domain="com.microsoft"),
    Case("QLinearGlobalAveragePool", (codes(*X), (), CODE, (), CODE), domain="com.microsoft"),
    Case(
        *("QLinearAveragePool", (codes(*X), (), CODE, (), CODE), {"kernel_shape": [2, 2]}),
        domain="com.microsoft",
    ),
    Case("QLinearConcat", ((), CODE, codes(*X), (), CODE, codes(*X), (), CODE), {"axis": 1}, domain="com.microsoft"),
    Case("NoSuchOperator", ((2, 5),), note="no rule"),
]


def view_of(case: Case) -> View:
    """A network of this one node, seen by its rule."""
    names = [f"i{k}" if given is not None else "" for k, given in enumerate(case.inputs)]
    if case.note == "computed shape":
        names[1] = "data_shape"
    constants = {n: g for n, g in zip(names, case.inputs, strict=True) if isinstance(g, np.ndarray | np.generic)}
    shapes = {n: g for n, g in zip(names, case.inputs, strict=True) if isinstance(g, tuple)}
    outputs = [f"o{k}" for k in range(case.outputs)]
    graph = helper.make_graph(
        [helper.make_node(case.op, names, outputs, name="node", domain=case.domain, **case.attributes)],
        "case",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    if case.note == "computed shape":
        graph.input.append(helper.make_tensor_value_info("data_shape", TensorProto.INT64, (4,)))
        graph.output[0].CopyFrom(helper.make_tensor_value_info("o0", TensorProto.FLOAT, (2, 5, 3, 8)))
    opsets = [helper.make_opsetid("", case.opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    make_explicit(model, {})
    network = read_network(model, {})
    return View(network.nodes[0], network, follow_dims(network))


def shown(case: Case) -> str:
    """The rule's line, or its refusal."""
    text = text_of(view_of(case))
    return f"refused: {text.reason}" if isinstance(text, Refusal) else text


def golden() -> dict[str, str]:
    """Expected lines by case."""
    lines = [line.partition(" | ") for line in GOLDEN.read_text().splitlines()]
    return {key: text for key, _, text in lines}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_rule_prints_its_line(case: Case) -> None:
    assert shown(case) == golden()[case.key]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_line_follows_every_operand(case: Case) -> None:
    """A line names as many axes as each tensor has; the engine relies on it."""
    view = view_of(case)
    text = text_of(view)
    if isinstance(text, Refusal):
        return
    line = parse(text)
    for operands, names in ((line.inputs, view.node.inputs), (line.outputs, view.node.outputs)):
        for operand, name in zip(operands, names, strict=False):
            if operand.axes is not None and name:
                assert len(operand.axes) == len(view.network.shapes[name]), operand.name


def test_golden_file_has_no_stale_line() -> None:
    assert set(golden()) == {case.key for case in CASES}


def test_operators_of_one_rule_are_covered_by_its_representative() -> None:
    """Elementwise operators share two rules; every other operator with a rule of its own has a golden line."""
    shared = {"unary", "broadcast", "variadic", "pool", "global_pool", "reduce", "softmax", "softmax_coerced"}
    shared |= {"shape", "resize", "reduce_sum", "cumulative", "arg_max", "rms_normalization", "recurrent", "found"}
    shared |= {"control_flow", "unary_beyond_zero"}
    from onnx_mdp.rules.registry import _RULES

    covered = {(case.domain or "ai.onnx", case.op) for case in CASES}
    missing = {
        (domain, op)
        for domain, op, _ in registered()
        if (domain, op) not in covered and _RULES[domain, op][0].function.__name__ not in shared
    }
    assert not missing


def test_a_second_rule_for_an_operator_is_an_error() -> None:
    with pytest.raises(ValueError, match="two rules"):
        rule("Conv")(lambda view: "x[a] -> y[a]")


@pytest.mark.parametrize(
    "text",
    ["x[a]", "x[a b] -> y[a]", "x[(a] -> y[a]", "x[a] -> y[a]; a = |b"],
    ids=["no arrow", "comma", "paren", "size"],
)
def test_malformed_lines_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse(text)
