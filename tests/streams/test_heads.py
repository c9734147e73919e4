"""Widths inside of attention heads: each head's own basis, the strongest directions first, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.find import Group
from onnx_mdp.pipeline.stages import prepare
from onnx_mdp.rewrite.plan import Plan, plan_edits
from onnx_mdp.runtime.base import Array, Runtime
from onnx_mdp.streams.basis import balanced
from onnx_mdp.streams.turn import Turned, turn
from onnx_mdp.verify.oracle import relative_error
from tests.streams.networks import TOKENS, D, Net, feeds_of
from tests.streams.proof import copy_of, prove_streams, turned_model

HEADS, WIDTH, RANK = 2, 8, 3
INNER = HEADS * WIDTH
Made = Callable[[], onnx.ModelProto]


def of_rank(net: Net, seed: int) -> Array:
    """A projection whose heads each span a few directions of their own."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(D, RANK)) @ rng.normal(size=(RANK, WIDTH)) for _ in range(HEADS)]
    return np.concatenate(parts, axis=1).astype(net.dtype) * 0.3


def attended(net: Net, queries: str, keys: str, values: str) -> str:
    """Attention over tensors of (1, heads, tokens, width), (1, heads, width, tokens) and (1, heads, tokens, width)."""
    scaled = net.op("Mul", queries, net.constant(np.float32(WIDTH**-0.5)))
    weights = net.op("Softmax", net.op("MatMul", scaled, keys), axis=-1)
    context = net.op("Transpose", net.op("MatMul", weights, values), perm=[0, 2, 1, 3])
    return net.op("Reshape", context, net.ints(1, TOKENS, INNER))


def split_heads(net: Net, x: str, perm: tuple[int, ...], heads: int = HEADS) -> str:
    return net.op("Transpose", net.op("Reshape", x, net.ints(1, TOKENS, heads, WIDTH)), perm=list(perm))


def separate() -> onnx.ModelProto:
    """Queries, keys and values by matrices of their own."""
    net = Net()
    x = net.input(1, TOKENS, D)
    made = [net.op("MatMul", x, net.constant(of_rank(net, seed))) for seed in (1, 2, 3)]
    made = [net.op("Add", y, net.constant(np.zeros(INNER, np.float32))) for y in made]
    perms = ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
    heads = [split_heads(net, y, perm) for y, perm in zip(made, perms, strict=True)]
    return net.model(net.linear(attended(net, *heads), INNER, 4))


def packed() -> onnx.ModelProto:
    """One matrix for all three."""
    net = Net()
    x = net.input(1, TOKENS, D)
    y = net.op("MatMul", x, net.constant(np.concatenate([of_rank(net, seed) for seed in (1, 2, 3)], axis=1)))
    y = net.op("Reshape", y, net.ints(1, TOKENS, 3, HEADS, WIDTH))
    y = net.op("Transpose", y, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", y, net.constant(np.array(i, np.int64)), axis=0) for i in range(3))
    return net.model(net.linear(attended(net, q, net.op("Transpose", k, perm=[0, 1, 3, 2]), v), INNER, 4))


@pytest.mark.parametrize("made", [separate, packed])
def test_what_has_few_directions_is_cut_to_these_without_loss(made: Made, runtime: Runtime) -> None:
    model = made()
    feeds = [feeds_of(model, seed) for seed in range(8)]
    turned = turned_model(model, feeds, runtime, refits=False)
    assert sorted(group.kind for group in groups_of(turned)) == ["qk", "v"]
    expected, found = runs(model, feeds, runtime), runs(cut_to(turned, RANK), feeds, runtime)
    assert max(map(relative_error, expected, found)) < 1e-3  # one ridge keeps weak directions from growing
    fewer = runs(cut_to(turned, RANK - 1), feeds, runtime)
    assert max(map(relative_error, expected, fewer)) > 1e-2


@pytest.mark.parametrize("made", [separate, packed])
def test_uncut_nothing_changes_and_cuts_are_exact(made: Made, runtime: Runtime) -> None:
    model = made()
    prove_streams(model, [feeds_of(model, seed) for seed in (1, 2)], runtime)


def test_every_head_has_a_basis_that_a_plan_can_repeat(runtime: Runtime) -> None:
    model = packed()
    turned = turned_model(model, [feeds_of(model, seed) for seed in range(8)], runtime)
    assert {basis.shape for basis in turned.bases.values()} == {(HEADS, WIDTH, WIDTH)}
    assert len(turned.bases) == 2
    again = turn(prepare(copy_of(model), {}, lossless=True).network, runtime, turned.bases)
    ours, theirs = (t.coupling.network.model.SerializeToString() for t in (turned, again))
    assert ours == theirs


def test_queries_that_share_keys_keep_a_basis_together(runtime: Runtime) -> None:
    net = Net()
    x = net.input(1, TOKENS, D)
    q = split_heads(net, net.linear(x, D, INNER), (0, 2, 1, 3))
    k = split_heads(net, net.linear(x, D, WIDTH), (0, 2, 3, 1), 1)
    v = split_heads(net, net.linear(x, D, WIDTH), (0, 2, 1, 3), 1)
    model = net.model(net.linear(attended(net, q, k, v), INNER, 4))
    proven = prove_streams(model, [feeds_of(model, seed) for seed in (1, 2)], runtime)
    assert {stream.heads for stream in proven.turned.streams.values()} == {None}
    assert {basis.shape for basis in proven.turned.bases.values()} == {(WIDTH, WIDTH)}


def test_positions_that_turn_queries_stand_in_the_way(runtime: Runtime) -> None:
    """A rotary table multiplies single units of queries: no other basis will do; values are not touched by it."""
    net = Net()
    x = net.input(1, TOKENS, D)
    q = split_heads(net, net.linear(x, D, INNER), (0, 2, 1, 3))
    q = net.op("Mul", q, net.weight(TOKENS, WIDTH))
    k = split_heads(net, net.linear(x, D, INNER), (0, 2, 3, 1))
    v = split_heads(net, net.linear(x, D, INNER), (0, 2, 1, 3))
    model = net.model(net.linear(attended(net, q, k, v), INNER, 4))
    proven = prove_streams(model, [feeds_of(model, seed) for seed in (1, 2)], runtime)
    assert [group.kind for group in groups_of(proven.turned)] == ["v"]


def test_balanced_moments_are_diagonal_and_alike() -> None:
    rng = np.random.default_rng(0)
    left, right = (a.T @ a for a in rng.normal(size=(2, 40, 5)))
    rows = balanced(left, right)
    inverse = np.linalg.inv(rows).T
    first, second = rows @ left @ rows.T, inverse @ right @ inverse.T
    assert np.allclose(first, np.diag(np.diag(first)), atol=1e-3 * first.max())
    assert np.allclose(first, second, atol=1e-3 * first.max())
    assert list(np.diag(first)) == sorted(np.diag(first), reverse=True)


def groups_of(turned: Turned) -> list[Group]:
    found = turned.analysis().by_factor
    return [found[stream.factor] for stream in turned.streams.values()]


def cut_to(turned: Turned, width: int) -> onnx.ModelProto:
    analysis = turned.analysis()
    plan = Plan({group.name: np.arange(width) for group in groups_of(turned)}, ())
    return rewrite(analysis.network.model, plan_edits(analysis, plan))


def runs(model: onnx.ModelProto, feeds: list[dict[str, Array]], runtime: Runtime) -> list[Array]:
    session = runtime.open(model.SerializeToString())
    return [session.run(each)[0] for each in feeds]
