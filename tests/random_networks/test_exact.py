"""Random plans of random networks are cut exactly.

The seed of a run is printed at its end; ONNX_MDP_SEED=<seed> runs the same examples again.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, seed, settings
from hypothesis import strategies as st

from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of
from tests.random_networks.exact import Outcome, assert_exact, assert_saved_plan_is_the_same, draw_plan
from tests.random_networks.net import described
from tests.random_networks.networks import Example, networks
from tests.random_networks.seed import SEED


def examine(count: int, runtime: Runtime) -> list[Outcome]:
    """The outcomes of that many random networks, each cut by one random plan."""
    outcomes: list[Outcome] = []

    @seed(SEED)
    @settings(max_examples=count, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain})
    @given(networks(), st.data())
    def cut_is_exact(example: Example, data: st.DataObject) -> None:
        outcome = cut(example, data, runtime)
        if data.draw(st.booleans(), label="again"):
            cut(Example(outcome.model, example.dynamic), data, runtime)
        assume(outcome.depends)
        outcomes.append(outcome)

    cut_is_exact()
    return outcomes


def cut(example: Example, data: st.DataObject, runtime: Runtime) -> Outcome:
    """Cut a network by a random plan; what was cut can be cut again."""
    note(f"ONNX_MDP_SEED={SEED}")
    note(described(example.model))
    analysis = analysis_of(example.model)
    plan = draw_plan(data, analysis)
    note(f"kept {plan.kept}, removed {plan.removed}")
    assert_saved_plan_is_the_same(analysis, plan)
    return assert_exact(example, analysis, plan, runtime)


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_cutting_is_masking(count: int, runtime: Runtime) -> None:
    outcomes = examine(count, runtime)
    effective = [o for o in outcomes if o.cut]
    assert len(outcomes) >= count
    assert sum(o.groups > 0 for o in outcomes) >= 0.7 * count, "most networks have nothing to cut"
    assert len(effective) >= 0.5 * count, "most plans cut nothing that matters"
    assert sum(o.changed for o in effective) >= 0.9 * len(effective), "masks mostly change nothing"
    assert sum(o.varies for o in outcomes) >= 0.9 * count, "outputs mostly ignore the input"
