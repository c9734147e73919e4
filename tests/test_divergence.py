"""Divergence: zero for the same outputs, KL for logits however they are given, L2 for all else."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_mdp.divergence import Divergence

RNG = np.random.default_rng(3)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum(axis=1).mean())


LOGITS = RNG.normal(size=(12, 7)).astype(np.float32)
OTHER = (LOGITS + RNG.normal(0, 0.3, LOGITS.shape)).astype(np.float32)


def runs(values: np.ndarray, size: int = 4) -> list[list[np.ndarray]]:
    """One output, as runs of a few samples."""
    return [[values[i : i + size]] for i in range(0, len(values), size)]


def test_logits_are_compared_by_kl() -> None:
    found = Divergence.fit(runs(LOGITS))
    assert found.unit == "KL"
    assert found.divergence(runs(LOGITS)) == 0
    assert found.divergence(runs(OTHER)) == pytest.approx(kl(softmax(LOGITS), softmax(OTHER)), rel=1e-5)


@pytest.mark.parametrize("size", [1, 4, 5, 12])
def test_every_sample_counts_the_same_however_runs_are_made(size: int) -> None:
    found = Divergence.fit(runs(LOGITS, size))
    assert found.divergence(runs(OTHER, size)) == pytest.approx(kl(softmax(LOGITS), softmax(OTHER)), rel=1e-5)


def test_probabilities_are_compared_as_the_logits_behind_them() -> None:
    """Saturated or not: the temperature is applied to what the softmax was applied to."""
    for scale in (1.0, 30.0):
        logits, other = (scale * values.astype(np.float64) for values in (LOGITS, OTHER))
        plain = Divergence.fit(runs(logits)).divergence(runs(other))
        applied = Divergence.fit(runs(softmax(logits))).divergence(runs(softmax(other)))
        assert applied == pytest.approx(plain, rel=1e-3)


def test_saturated_logits_are_cooled_until_their_mean_largest_probability_is_four_fifths() -> None:
    hot = 40 * LOGITS
    found = Divergence.fit(runs(hot))
    (temperature,) = found.temperatures
    assert temperature > 5
    assert softmax(hot.astype(np.float64) / temperature).max(axis=1).mean() == pytest.approx(0.8, abs=1e-6)
    assert Divergence.fit(runs(LOGITS)).temperatures == (1.0,)


def test_logits_whose_largest_are_all_right_still_differ() -> None:
    """The trap: confident predictions that a cut does not flip read zero without a temperature."""
    sure = 60 * np.eye(6, dtype=np.float32) + RNG.normal(size=(6, 6)).astype(np.float32)
    assert kl(softmax(sure.astype(np.float64)), softmax(0.7 * sure.astype(np.float64)) + 1e-30) < 1e-12
    assert Divergence.fit(runs(sure)).divergence(runs(0.7 * sure)) > 0.01


def test_other_floats_are_compared_by_relative_l2() -> None:
    maps = RNG.normal(size=(4, 3, 5, 5)).astype(np.float32)
    found = Divergence.fit(runs(maps, 2))
    assert found.unit == "relative L2"
    assert found.divergence(runs(1.1 * maps, 2)) == pytest.approx(0.01, rel=1e-4)
    assert Divergence.fit(runs(1000 * maps, 2)).divergence(runs(1100 * maps, 2)) == pytest.approx(0.01, rel=1e-4)


def test_answers_to_separate_questions_are_no_distribution() -> None:
    assert Divergence.fit(runs(RNG.uniform(size=(8, 5)))).unit == "relative L2"
    assert Divergence.fit(runs(RNG.normal(size=(8, 1)))).unit == "relative L2"


def test_several_outputs_are_averaged() -> None:
    maps = RNG.normal(size=(12, 3, 2, 2))
    labels = np.arange(12)
    changed = np.where(labels < 3, -1, labels)
    found = Divergence.fit([[LOGITS, maps, labels]])
    assert found.unit == "KL and relative L2"
    expected = (kl(softmax(LOGITS), softmax(OTHER)) + 0.04 + 0.25) / 3
    assert found.divergence([[OTHER, 1.2 * maps, changed]]) == pytest.approx(expected, rel=1e-5)


def test_what_is_not_a_number_says_nothing() -> None:
    broken = np.full_like(LOGITS, np.nan)
    uniform = np.zeros_like(LOGITS)
    found = Divergence.fit(runs(LOGITS))
    assert found.divergence(runs(broken)) == pytest.approx(found.divergence(runs(uniform)))
    maps = RNG.normal(size=(4, 3, 5, 5))
    assert Divergence.fit(runs(maps)).divergence(runs(np.full_like(maps, np.nan))) == pytest.approx(1.0)


def test_outputs_of_another_shape_are_wholly_different() -> None:
    boxes = RNG.normal(size=(5, 4, 2))
    assert Divergence.fit([[boxes]]).divergence([[boxes[:3]]]) == 1.0


def test_half_precision_is_compared_in_double() -> None:
    half = LOGITS.astype(np.float16)
    moved = (half.astype(np.float32) + np.float32(1e-3)).astype(np.float32)
    assert 0 <= Divergence.fit(runs(half)).divergence(runs(moved)) < 1e-5
