"""Which turns count: those that nothing disturbed, and where there are none, all."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_mdp.engine.turns import Samples, counted


def samples(dense: Samples, ratio: Samples) -> Samples:
    """Turns of a dense and a pruned model, both clocks alike."""
    return np.repeat(np.stack([dense, ratio * dense])[:, :, None], 2, axis=2)


@pytest.mark.parametrize("fast", [0.3, 0.7])
def test_a_neighbor_that_comes_and_goes(fast: float) -> None:
    """However much of the time it is there: a pruned model suffers less from it than the dense one."""
    rng = np.random.default_rng(0)
    calm = rng.random(400) < fast
    noise = 1 + 0.005 * rng.random((2, 400))
    turns = samples(np.where(calm, 0.55, 0.85) * noise[0], np.where(calm, 0.545, 0.588) * noise[1])
    found = counted(turns, 1)
    assert found.shape[1] == 100
    assert found[0, :, 1].max() < 0.56
    assert np.median(found[1] / found[0]) == pytest.approx(0.545, rel=0.005)


def test_where_no_turn_is_undisturbed_all_count() -> None:
    rng = np.random.default_rng(0)
    turns = samples(2 * np.exp(0.15 * rng.normal(size=400)), 0.5 * np.exp(0.08 * rng.normal(size=400)))
    assert counted(turns, 0) is turns


def test_a_few_lucky_turns_do_not_make_the_others_disturbed() -> None:
    rng = np.random.default_rng(0)
    dense = 2 * (1 + 0.005 * rng.random(400))
    dense[:4] = 1.5
    assert counted(samples(dense, np.full(400, 0.5)), 1).shape[1] == 100


def test_some_of_few_turns_are_left() -> None:
    assert counted(samples(np.full(12, 2.0), np.full(12, 0.5)), 1).shape[1] == 6
