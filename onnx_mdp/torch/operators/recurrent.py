"""Operators that walk along a sequence with a state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_mdp.errors import ModelError
from onnx_mdp.torch.registry import Call, operator

States = tuple[Tensor, ...]
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": functional.softsign,
    "softplus": functional.softplus,
    "hardsigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "elu": functional.elu,
}


@dataclass(frozen=True)
class _Way:
    """One direction: its weights, biases of the input and of the state, peepholes, and activation functions."""

    call: Call
    w: Tensor
    r: Tensor
    wb: Tensor
    rb: Tensor
    p: Tensor | None
    f: Sequence[Callable[[Tensor], Tensor]]

    def gates(self, x: Tensor, h: Tensor) -> Tensor:
        """What all gates have in common."""
        return x @ self.w.T + self.wb + h @ self.r.T + self.rb


_Cell = Callable[[_Way, Tensor, States], States]


def _rnn_cell(way: _Way, x: Tensor, state: States) -> States:
    return (way.f[0](way.gates(x, state[0])),)


def _gru_cell(way: _Way, x: Tensor, state: States) -> States:
    """Gates z, r, h; the reset applies to the state, or to what its weights make of it."""
    (h,) = state
    rz, rr, rh = way.r.chunk(3)
    wz, wr, wh = (x @ way.w.T + way.wb).chunk(3, dim=-1)
    bz, br, bh = way.rb.chunk(3)
    z, reset = way.f[0](wz + h @ rz.T + bz), way.f[0](wr + h @ rr.T + br)
    linear_first = way.call.attr("linear_before_reset", 0)
    inner = reset * (h @ rh.T + bh) if linear_first else (reset * h) @ rh.T + bh
    return ((1 - z) * way.f[1](wh + inner) + z * h,)


def _lstm_cell(way: _Way, x: Tensor, state: States) -> States:
    """Gates i, o, f, c; peepholes, where there are any, look at the cell for i, o and f."""
    h, c = state
    i, o, forget, cell = way.gates(x, h).chunk(4, dim=-1)
    pi, po, pf = (0.0, 0.0, 0.0) if way.p is None else way.p.chunk(3)
    c = way.f[0](forget + pf * c) * c + way.f[0](i + pi * c) * way.f[1](cell)
    return way.f[0](o + po * c) * way.f[2](c), c


@operator("RNN", weights=(1, 2, 3), host=(4,), since=7)
def _rnn(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Any = None, lengths: Any = None, h: Any = None) -> Any:
    return _walked(_rnn_cell, list(_ways(call, ("tanh",), w, r, b, None)), x, lengths, (h,))


@operator("GRU", weights=(1, 2, 3), host=(4,), since=7)
def _gru(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Any = None, lengths: Any = None, h: Any = None) -> Any:
    return _walked(_gru_cell, list(_ways(call, ("sigmoid", "tanh"), w, r, b, None)), x, lengths, (h,))


@operator("LSTM", weights=(1, 2, 3, 7), host=(4,), since=7)
def _lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Any = None, lengths: Any = None, *more: Any) -> Any:
    h, c, p = (*more, None, None, None)[:3]
    return _walked(_lstm_cell, list(_ways(call, ("sigmoid", "tanh", "tanh"), w, r, b, p)), x, lengths, (h, c))


def _ways(call: Call, default: tuple[str, ...], w: Tensor, r: Tensor, b: Any, p: Any) -> Iterator[_Way]:
    if refused := [name for name in ("clip", "input_forget", "activation_alpha") if call.attr(name)]:
        raise ModelError(f"node {call.node.name!r}: {refused[0]} has no form in PyTorch here; export it without")
    names = call.attr("activations", list(default) * len(w))
    for d in range(len(w)):
        wb, rb = w.new_zeros(2, w.shape[1]) if b is None else b[d].chunk(2)
        functions = [_FUNCTIONS[name.lower()] for name in names[d * len(default) :][: len(default)]]
        yield _Way(call, w[d], r[d], wb, rb, None if p is None else p[d], functions)


def _walked(cell: _Cell, ways: Sequence[_Way], x: Tensor, lengths: Any, start: Sequence[Tensor | None]) -> Any:
    """The states at all steps, and the last ones, of every direction."""
    call = ways[0].call
    batch_first = call.attr("layout", 0)
    x = x.transpose(0, 1) if batch_first else x
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    every, ends = [], []
    for d, back in enumerate(backward[call.attr("direction", "forward")]):
        state = tuple(_start(given, d, x, ways[d].r.shape[-1], batch_first) for given in start)
        found, end = _one_way(partial(cell, ways[d]), x, lengths, state, back)
        every.append(found)
        ends.append(end)
    y = torch.stack(every, dim=1)
    last = [torch.stack(column) for column in zip(*ends, strict=True)]
    return (y.permute(2, 0, 1, 3), *(v.transpose(0, 1) for v in last)) if batch_first else (y, *last)


def _start(given: Tensor | None, direction: int, x: Tensor, width: int, batch_first: bool) -> Tensor:
    if given is None:
        return torch.zeros(x.shape[1], width, dtype=x.dtype, device=x.device)
    return given[:, direction] if batch_first else given[direction]


def _one_way(
    step: Callable[[Tensor, States], States], x: Tensor, lengths: Any, state: States, backward: bool
) -> tuple[Tensor, States]:
    """A sequence that has ended keeps its state, and its further outputs are zero."""
    rows: list[Tensor] = []
    ends = None if lengths is None else torch.tensor(lengths, device=x.device)[:, None]
    order = range(len(x))[:: -1 if backward else 1]
    for t in order:
        after = step(x[t], state)
        alive = None if ends is None else t < ends
        state = after if alive is None else tuple(torch.where(alive, a, s) for a, s in zip(after, state, strict=True))
        rows.append(after[0] if alive is None else torch.where(alive, after[0], 0.0))
    return torch.stack(rows[::-1] if backward else rows), state
