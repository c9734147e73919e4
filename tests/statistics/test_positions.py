"""What positions of a stream count: measured, and only where sources differ."""

from __future__ import annotations

import numpy as np

from onnx_mdp.groups.couple import couple
from onnx_mdp.pipeline.stages import prepare
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.positions import Positions, PositionWeights
from onnx_mdp.statistics.sites import choose_picks, find_sites
from tests.streams.networks import TOKENS, D, Net, feeds_of


def positions_of(net: Net, stream: str, output: str, runtime: Runtime) -> PositionWeights | None:
    model = net.model(output)
    stacked = {k: np.concatenate([feeds_of(model, seed)[k] for seed in range(4)]) for k in feeds_of(model, 0)}
    prepared = prepare(model, {}, stacked, lossless=False)
    assert prepared.inputs is not None
    return Positions(couple(prepared.network), prepared.inputs, runtime).of(stream)


def with_class_token(net: Net) -> str:
    patches = net.linear(net.input(1, TOKENS - 1, 6), 6, D)
    return net.op("Concat", net.weight(1, 1, D), patches, axis=1)


def test_a_token_that_alone_is_read_is_all_that_counts(runtime: Runtime) -> None:
    net = Net()
    stream = with_class_token(net)
    read = net.op("Gather", net.layer_norm(stream), net.constant(np.array(0, np.int64)), axis=1)
    found = positions_of(net, stream, net.linear(read, D, 7), runtime)
    assert found is not None
    assert np.isclose(found.weights.mean(), 1)
    assert found.weights[0] > 10 * found.weights[1:].max()


def test_tokens_that_are_averaged_count_alike(runtime: Runtime) -> None:
    net = Net()
    stream = with_class_token(net)
    read = net.op("ReduceMean", net.layer_norm(stream), axes=[1], keepdims=0)
    found = positions_of(net, stream, net.linear(read, D, 7), runtime)
    assert found is not None
    assert found.weights.max() < 5 * found.weights.min()


def test_positions_of_one_source_are_not_told_apart(runtime: Runtime) -> None:
    net = Net()
    stream = net.linear(net.input(1, TOKENS, 6), 6, D)
    output = net.linear(net.op("ReduceMean", net.layer_norm(stream), axes=[1], keepdims=0), D, 7)
    assert positions_of(net, stream, output, runtime) is None


def test_few_positions_are_always_looked_at_and_many_stand_for_the_rest() -> None:
    net = Net()
    site = find_sites(prepare(net.model(net.linear(net.input(1, 200, 6), 6, D)), {}, lossless=False).network)[0]
    parts = (np.arange(1), np.arange(1, 200))
    picks = choose_picks(site, 200, (1, 6, D), 1000, work=7**2 * 20_000, parts=parts)
    assert len(picks) == 20
    assert picks[0] == 0
    weights = PositionWeights(np.r_[100.0, np.full(199, 0.5)], parts).picked(picks)
    assert weights[0] == 100
    assert np.allclose(weights[1:], 0.5 * 199 / 19)
