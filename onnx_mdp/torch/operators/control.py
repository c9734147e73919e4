"""Operators that run subgraphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnx_mdp.torch.registry import Call, operator


def _flag(value: Any) -> bool:
    return bool(value[0] if isinstance(value, list) else value)


@operator("If", host=(0,))
def _if(call: Call, condition: Any) -> tuple[Tensor, ...]:
    return call.run("then_branch" if _flag(condition) else "else_branch")


@operator("Loop", host=(0, 1))
def _loop(call: Call, limit: Any, condition: Any, *states: Tensor) -> tuple[Tensor, ...]:
    """Turns until a limit or a condition ends them; what a turn computes beside its states is stacked."""
    most = None if limit is None else limit[0] if isinstance(limit, list) else limit
    going, turn = condition is None or _flag(condition), 0
    rows: list[tuple[Tensor, ...]] = []
    while going and (most is None or turn < most):
        again, *found = call.run("body", torch.tensor(turn), torch.tensor(True), *states)
        states = tuple(found[: len(states)])
        rows.append(tuple(found[len(states) :]))
        going, turn = bool(again), turn + 1
    scanned = [torch.stack(column) for column in zip(*rows, strict=True)]
    empty = [torch.empty(0)] * (call.outputs - len(states) - len(scanned))
    return (*states, *scanned, *empty)
