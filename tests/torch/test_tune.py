"""The parts of fine-tuning: images moved, rates by size, the pace, a loss that is small where the divergence is."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from onnx_mdp.divergence import Divergence
from onnx_mdp.torch import to_module
from onnx_mdp.torch.tune.augment import augmented
from onnx_mdp.torch.tune.held_out import Score
from onnx_mdp.torch.tune.loss import Loss
from onnx_mdp.torch.tune.optimizer import make_optimizer
from onnx_mdp.torch.tune.schedule import Pace
from tests.torch.nets import perturbed, residual


@pytest.mark.parametrize("layout", ["first", "last"])
def test_images_are_flipped_and_shifted_whole(layout: str) -> None:
    """Every result is the original read at other columns and rows, edges repeated; other inputs stay."""
    count, size = 200, 16
    pixels = np.arange(size * size, dtype=np.float32).reshape(size, size)
    images = np.broadcast_to(pixels, (count, 3, size, size)) + 1000 * np.arange(3)[:, None, None]
    given = images if layout == "first" else images.transpose(0, 2, 3, 1)
    feeds = {"x": given.astype(np.float32), "ids": np.arange(count)}
    found = augmented(feeds, ("flip", "shift"), np.random.default_rng(0))
    moved = found["x"] if layout == "first" else found["x"].transpose(0, 3, 1, 2)
    assert found["x"].shape == given.shape
    assert np.array_equal(found["ids"], feeds["ids"])
    assert np.array_equal(moved[:, 1] - moved[:, 0], np.full((count, size, size), 1000))
    rows, columns = moved[:, 0] // size, moved[:, 0] % size
    down, right = rows[:, 8, 8] - 8, columns[:, 8].max(1) + columns[:, 8].min(1)
    assert set(down) == {-2, -1, 0, 1, 2}
    assert len(set(right)) > 3
    assert (rows == rows[:, :, :1]).all()
    assert (columns == columns[:, :1]).all()
    flipped = columns[:, 0, 8] > columns[:, 0, 9]
    assert 60 < flipped.sum() < 140
    still = augmented(feeds, (), np.random.default_rng(0))
    assert np.array_equal(still["x"], given)


def test_only_matrices_decay_and_rates_follow_their_size() -> None:
    module = to_module(residual())
    optimizer = make_optimizer("adamw", module, 0.01, 0.1)
    facts = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in module.named_parameters():
        lr, decay = facts[id(parameter)]
        assert decay == (0.1 if parameter.dim() == 2 else 0.0), name
        expected = 0.01 * (float(parameter.detach().square().mean().sqrt()) if parameter.dim() == 2 else 0.05)
        assert lr == pytest.approx(expected), name
    assert {group["lr"] for group in make_optimizer("sgd", module, None, 0.1).param_groups} == {0.01}


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    pace = Pace(99, float("inf"), 0.1)
    factors = [pace.factor(step) for step in range(100)]
    assert factors[4] == pytest.approx(0.5)
    assert max(factors) == pytest.approx(1.0)
    assert int(np.argmax(factors)) == 9
    assert factors[54] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.0)
    timed = Pace(float("inf"), 10.0, 0.1, spent=5.5, started=time.perf_counter())
    assert timed.factor(0) == pytest.approx(0.5, abs=0.1)
    assert not timed.is_over
    assert Pace(float("inf"), 1.0, 0.1, spent=1.0).is_over


@pytest.mark.parametrize("applied", [False, True])
def test_the_loss_is_the_divergence_at_temperature_one(applied: bool) -> None:
    """Of logits or of probabilities, and of floats that are neither."""
    rng = np.random.default_rng(0)
    raw = [rng.standard_normal((32, 5)) for _ in range(2)]
    logits = [np.exp(v) / np.exp(v).sum(1, keepdims=True) if applied else v for v in raw]
    floats = [rng.standard_normal((32, 4, 3)) for _ in range(2)]
    divergence = Divergence.fit([[logits[0], floats[0]]])
    loss = Loss.like(divergence, 1.0, None)
    tensors = [[torch.from_numpy(pair[i]) for pair in (logits, floats)] for i in (0, 1)]
    expected = divergence.divergence([[logits[1], floats[1]]])
    assert float(loss(tensors[1], tensors[0], None)) == pytest.approx(expected, rel=1e-6)
    assert float(loss(tensors[0], tensors[0], None)) == pytest.approx(0.0, abs=1e-9)
    with_features = [[*found, torch.ones(32, 2) * (1 + i)] for i, found in enumerate(tensors)]
    assert float(loss(with_features[1], with_features[0], None)) == pytest.approx(expected + 1.0, rel=1e-6)
    labelled = Loss.like(divergence, 1.0, 0)
    labels = torch.arange(32) % 5
    entropy = torch.nn.functional.cross_entropy(torch.from_numpy(raw[1]), labels)
    assert float(labelled(tensors[1], tensors[0], labels)) == pytest.approx(expected + float(entropy), rel=1e-6)


def test_gradients_have_one_size_at_all_temperatures() -> None:
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((64, 10))
    divergence = Divergence.fit([[dense]])
    sizes = []
    for temperature in (20.0, 80.0):
        found = torch.from_numpy(dense + rng.standard_normal(dense.shape)).requires_grad_()
        Loss.like(divergence, temperature, None)([found], [torch.from_numpy(dense)], None).backward()
        sizes.append(float(found.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.2)


def test_scores_go_by_accuracy_first() -> None:
    assert Score(0.5).beats(Score(0.6))
    assert not Score(0.5).beats(Score(0.5))
    assert Score(0.9, 0.8).beats(Score(0.1, 0.7))
    assert Score(0.1, 0.7).beats(Score(0.2, 0.7))


def test_mixed_precision_computes_the_same_to_its_rounding() -> None:
    """What runs on a GPU in bfloat16 runs on a CPU as well."""
    model = perturbed(residual())
    module, x = to_module(model), torch.randn(16, 12, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        half = module(x)["logits"]
    whole = module(x)["logits"]
    difference = float((half.float() - whole).detach().abs().max())
    assert 0 < difference < 0.05 * float(whole.detach().abs().max())
