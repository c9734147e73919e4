"""Moments give the same weights and errors as the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_mdp.statistics.gram import Gram

Rows = tuple[np.ndarray, np.ndarray]


def rows(groups: int = 2, count: int = 400, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (groups, count, 5)).astype(np.float32)
    truth = np.random.default_rng(9).normal(size=(groups, 5, 3))
    return x, (x @ truth + 2 + 0.1 * rng.normal(size=(groups, count, 3))).astype(np.float32)


def gram(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> Gram:
    found = Gram.empty(len(x), x.shape[2], y.shape[2])
    half = x.shape[1] // 2
    parts = (None, None) if weights is None else (weights[:half], weights[half:])
    found.add(x[:, :half], y[:, :half], parts[0])
    found.add(x[:, half:], y[:, half:], parts[1])
    return found


ZERO = np.zeros((2, 5, 3)), np.zeros((2, 3))


@pytest.mark.parametrize("free", [True, False])
def test_the_fit_is_that_of_least_squares(free: bool) -> None:
    x, y = rows()
    matrix, bias = gram(x, y).fit(*ZERO, 0.0, free=free)
    for g in range(2):
        inputs = np.concatenate([x[g], np.ones((400, 1))], axis=1) if free else x[g]
        expected = np.linalg.lstsq(inputs, y[g], rcond=None)[0]
        np.testing.assert_allclose(matrix[g], expected[:5], atol=1e-4)
        np.testing.assert_allclose(bias[g], expected[5] if free else 0, atol=1e-4)


def test_the_error_is_that_of_the_rows() -> None:
    (x, y), (matrix, bias) = rows(), gram(*rows(seed=1)).fit(*ZERO, 0.1, free=True)
    expected = np.square(x @ matrix + bias[:, None] - y).mean(axis=1)
    np.testing.assert_allclose(gram(x, y).error(matrix, bias), expected, rtol=1e-3)


def test_a_ridge_draws_towards_the_weights_given() -> None:
    moments, start = gram(*rows()), (np.ones((2, 5, 3)), np.zeros((2, 3)))
    gaps = [np.abs(moments.fit(*start, ridge, free=True)[0] - start[0]).max() for ridge in (0.0, 0.1, 10.0, 1e6)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3


def test_a_weight_counts_as_that_many_rows() -> None:
    x, y = rows(count=40)
    counts = np.random.default_rng(2).integers(1, 4, 40)
    repeated = gram(np.repeat(x, counts, axis=1), np.repeat(y, counts, axis=1))
    weighted = gram(x, y, counts.astype(np.float32))
    for name in ("a", "b", "c", "rows"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-5)


def test_dead_and_doubled_columns_do_no_harm() -> None:
    x, y = rows()
    x[:, :, 1], x[:, :, 2] = 0, x[:, :, 3]
    matrix, bias = gram(x, y).fit(*ZERO, 1e-3, free=True)
    assert np.isfinite(matrix).all()
    assert gram(x, y).error(matrix, bias).max() < 3 * y.var()
    np.testing.assert_allclose(matrix[:, 2], matrix[:, 3], atol=1e-6)


def test_moments_add_up() -> None:
    (x, y), (u, v) = rows(), rows(seed=3)
    both, summed = gram(np.concatenate([x, u], axis=1), np.concatenate([y, v], axis=1)), gram(x, y) + gram(u, v)
    np.testing.assert_allclose(summed.a, both.a, rtol=1e-5)
    assert summed.rows == both.rows


def test_moments_of_what_hardly_varies_are_exact_one_row_at_a_time_or_many() -> None:
    rng = np.random.default_rng(5)
    x = (100 + 1e-2 * rng.normal(size=(2, 300, 20))).astype(np.float32)
    y = rng.normal(50, 1, (2, 300, 3)).astype(np.float32)
    weights = rng.uniform(0.5, 2, 300).astype(np.float32)
    for step in (1, 7, 300):
        found = Gram.empty(2, 20, 3)
        for start in range(0, 300, step):
            part = slice(start, start + step)
            found.add(x[:, part], y[:, part], weights[part])
        mean = np.average(x.astype(np.float64), axis=1, weights=weights)
        gap = (x - mean[:, None]) * np.sqrt(weights, dtype=np.float64)[None, :, None]
        expected = gap.swapaxes(1, 2) @ gap
        covariance = found.a[:, :-1, :-1] - found.a[:, -1:, :-1].swapaxes(1, 2) @ found.a[:, -1:, :-1] / found.rows
        np.testing.assert_allclose(covariance, expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(
            found.b[:, -1], (y * weights[None, :, None].astype(np.float64)).sum(axis=1), rtol=1e-5
        )


def test_what_is_added_after_a_look_counts_too() -> None:
    x, y = rows()
    looked = Gram.empty(2, 5, 3)
    for start in range(0, 400, 100):
        looked.add(x[:, start : start + 100], y[:, start : start + 100])
        assert looked.a[0, -1, -1] == start + 100
    for one, other in ((looked.a, gram(x, y).a), (looked.b, gram(x, y).b), ((looked + looked).a / 2, looked.a)):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    more = looked + looked
    more.add(x, y)
    np.testing.assert_allclose(more.b / 3, looked.b, rtol=1e-4)
