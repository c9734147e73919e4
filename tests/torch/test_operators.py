"""Every operator computes what ONNX Runtime does, in every form that differs, and passes gradients."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from onnx_mdp.errors import ModelError
from onnx_mdp.torch import to_module
from onnx_mdp.torch.operators import find_operator, registered
from tests.torch.cases import Case, every

CASES = list(every())
SUBGRAPHS = {"If", "Loop"}  # tested below


def compared(case: Case) -> tuple[list[np.ndarray], list[torch.Tensor]]:
    """What ONNX Runtime and PyTorch make of a case."""
    model, feeds = case.model()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    expected = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, feeds
    )
    found = to_module(model)({name: torch.from_numpy(value) for name, value in feeds.items()})
    return expected, list(found.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator_equals_onnxruntime(case: Case) -> None:
    for expected, found in zip(*compared(case), strict=True):
        values = found.detach().numpy()
        assert values.dtype == expected.dtype
        assert values.shape == expected.shape
        if expected.dtype.kind == "f" and expected.size:
            scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
            assert np.allclose(values, expected, rtol=0, atol=1e-5 * max(scale, 1.0), equal_nan=True)
        else:
            assert np.array_equal(values, expected)


def test_every_operator_has_a_case() -> None:
    assert {op for domain, op, _ in registered() if domain == "ai.onnx"} == {case.op for case in CASES} | SUBGRAPHS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_is_that_of_differences(case: Case) -> None:
    """Along one random direction of all float inputs, in double precision, unless the operator lets none pass."""
    model, feeds = case.model()
    operator = find_operator("ai.onnx", case.op, case.opset)
    positions = [int(name[1:]) for name in feeds]
    assert operator is not None
    carried = [p for p in positions if operator.trains(p)]
    if not carried or case.op in {"Ceil", "Floor", "Round", "Sign", "QuantizeLinear", "IsInf", "Mod"}:
        pytest.skip("no gradient passes")
    module = to_module(model).double()
    start = {name: torch.from_numpy(value).double() for name, value in feeds.items()}
    generator = torch.Generator().manual_seed(0)
    ways = {f"x{p}": torch.randn(start[f"x{p}"].shape, generator=generator, dtype=torch.float64) for p in carried}
    weights: dict[str, torch.Tensor] = {}

    def value(t: torch.Tensor) -> torch.Tensor:
        outputs = module({name: v + t * ways[name] if name in ways else v for name, v in start.items()})
        total = torch.zeros((), dtype=torch.float64)
        for name, output in outputs.items():
            if output.is_floating_point() and output.numel():
                weights.setdefault(name, torch.randn(output.shape, generator=generator, dtype=torch.float64))
                total = total + (output * weights[name]).sum()
        return total

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    total = value(t)
    if not total.requires_grad:
        pytest.skip("the output is no number that changes smoothly")
    (gradient,) = torch.autograd.grad(total, t)
    h = 1e-6
    with torch.no_grad():
        difference = (value(torch.tensor(h).double()) - value(torch.tensor(-h).double())) / (2 * h)
    assert math.isclose(float(gradient), float(difference), rel_tol=1e-4, abs_tol=1e-4)


JUMPS = {"Ceil", "Floor", "Round", "Sign", "Mod", "QuantizeLinear", "Cast", "CastLike"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator_takes_what_autocast_computes(case: Case) -> None:
    """Results in bfloat16 stand beside weights in single precision, at each input in turn that may be a result."""
    model, feeds = case.model()
    module, operator = to_module(model), find_operator("ai.onnx", case.op, case.opset)
    given = {name: torch.from_numpy(value) for name, value in feeds.items()}
    assert operator is not None
    results = [n for n, v in given.items() if v.dtype == torch.float32 and operator.trains(int(n[1:]))]
    for name in (n for n in results if int(n[1:]) not in operator.weights):
        low = {**given, name: given[name].bfloat16()}
        expected = module({**low, name: low[name].float()})
        with torch.autocast("cpu", torch.bfloat16):
            found = module(low)
        for output, value in expected.items():
            assert found[output].shape == value.shape
            if value.is_floating_point() and case.op not in JUMPS:
                difference = torch.where(value == found[output], 0.0, found[output] - value)
                scale = value.nan_to_num(0, 0, 0).norm(torch.inf) if value.numel() else 0.0
                assert (difference.nan_to_num().abs() <= 0.03 * scale).all()


def test_unknown_operator_is_named_with_a_remedy() -> None:
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"], name="product")
    values = [helper.make_tensor_value_info(name, TensorProto.INT8, (2, 2)) for name in "ab"]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("c", TensorProto.INT32, (2, 2))])
    with pytest.raises(ModelError, match="node 'product': operator MatMulInteger of .*apply_plan"):
        to_module(helper.make_model(graph))


def test_failure_names_the_node() -> None:
    model, feeds = Case("MatMul", [np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)]).model()
    with pytest.raises(RuntimeError) as failure:
        to_module(model)(torch.ones(2, 5), torch.ones(3, 4))
    assert "MatMul node" in failure.value.__notes__[0]
    assert set(feeds) == {"x0", "x1"}


def test_long_transforms() -> None:
    """ONNX Runtime's own transform is off by 1e-4 at such lengths; numpy's is not."""
    values = np.random.default_rng(0).standard_normal((2, 384, 2)).astype(np.float32)
    model, _ = Case("DFT", [values, None, np.array(1)], opset=20).model()
    found = to_module(model)(torch.from_numpy(values))["y0"].numpy()
    expected = np.fft.fft(values[..., 0].astype(np.float64) + 1j * values[..., 1], axis=1)
    assert np.abs(found[..., 0] + 1j * found[..., 1] - expected).max() < 1e-6 * np.abs(expected).max()
