"""What a rewritten model counts is known before it is rewritten: for the bundled models exactly, else never too low."""

from __future__ import annotations

import math

import onnx
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from onnx_mdp.axes.polynomial import size_polynomial
from onnx_mdp.axes.terms import Factor, concat, prod, size
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.weights import weight_bytes
from onnx_mdp.groups.count import count_bytes, count_macs, count_parameters
from onnx_mdp.groups.find import Analysis
from onnx_mdp.rewrite.plan import Plan, dense_plan, plan_edits
from tests.conftest import MODELS, analysis_of
from tests.cutting import random_plan
from tests.random_networks.exact import draw_plan
from tests.random_networks.networks import Example, networks

COUNTS = (count_parameters, count_bytes, count_macs)


def counted(analysis: Analysis, plan: Plan) -> list[float]:
    """What the counts say of a plan."""
    widths = {group.factor: len(plan.kept[group.name]) for group in analysis.groups}
    return [count(analysis).at(analysis, widths, plan.removed) for count in COUNTS]


def found(model: onnx.ModelProto) -> list[float]:
    """What a rewritten model counts."""
    return [parameter_count(model), weight_bytes(model), sum(node_macs(analysis_of(model).network).values())]


def cut(analysis: Analysis, plan: Plan) -> onnx.ModelProto:
    return rewrite(analysis.network.model, plan_edits(analysis, plan))


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
@pytest.mark.parametrize("seed", range(6))
def test_counts_equal_those_of_the_rewritten_model(name: str, seed: int) -> None:
    analysis = analysis_of(MODELS / name)
    plan = random_plan(analysis, seed, blocks=seed % 2 == 1)
    assert bool(plan.removed) == (seed % 2 == 1)
    model = cut(analysis, plan)
    (parameters, size_, macs), (real_parameters, real_size, real_macs) = counted(analysis, plan), found(model)
    assert (parameters, macs) == (real_parameters, real_macs)
    lists = sum(8 * math.prod(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64)
    assert 0 <= size_ - real_size <= lists, "shape lists that happen to become equal are stored once"
    assert found(model) < found(cut(analysis, dense_plan(analysis))), "the plan cuts something"


def test_sizes_as_polynomials_are_those_of_the_terms() -> None:
    a, b, c, locked = Factor(3), Factor(4), Factor(5), Factor(7)
    term = concat([prod([a, b]), prod([a, concat([c, locked])]), a])
    polynomial = size_polynomial(term, {a, b, c})
    for widths in ({}, {a: 2}, {a: 1, b: 3}, {a: 2, b: 1, c: 0}):
        assert polynomial.at(widths) == size(term, widths)
    assert polynomial.coefficients == {tuple(sorted((a, b), key=id)): 1, tuple(sorted((a, c), key=id)): 1, (a,): 8}
    assert (polynomial * polynomial + 1).at({a: 2}) == size(term, {a: 2}) ** 2 + 1
    assert (4 * polynomial // 2).at({b: 1}) == 2 * size(term, {b: 1})
    with pytest.raises(ValueError, match="no multiple of 3"):
        polynomial // 3


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(networks(), st.data())
def test_counts_of_any_network_are_never_too_low(example: Example, data: st.DataObject) -> None:
    analysis = analysis_of(example.model)
    plan = draw_plan(data, analysis)
    note(f"kept {plan.kept}, removed {plan.removed}")
    model = cut(analysis, plan)
    (parameters, size_, macs), (real_parameters, real_size, real_macs) = counted(analysis, plan), found(model)
    assert parameters >= real_parameters
    assert size_ >= real_size
    assert macs >= real_macs
