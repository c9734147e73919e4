"""The seam to a MILP solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from onnx_mdp.solve.linearize import Mip, Vector
from onnx_mdp.solve.problem import Status


@dataclass(frozen=True)
class Limits:
    """When to stop: seconds, and a relative gap between incumbent and bound."""

    seconds: float = 60.0
    gap: float = 1e-6


@dataclass(frozen=True, eq=False)
class MipResult:
    """A solver's result; `x` is None without a solution."""

    status: Status
    x: Vector | None
    bound: float


class MipSolver(Protocol):
    """A MILP solver; `statuses` maps its outcomes to ours. `onnx_mdp.solve.solve` knows which are installed."""

    name: ClassVar[str]
    statuses: ClassVar[Mapping[str, Status]]

    def solve(self, mip: Mip, limits: Limits) -> MipResult:
        """Solve on one thread.

        Raises:
            SolverError: the solver failed.
            SolverLicenseError: its licence does not admit the size.
        """
        ...

    def admits(self, mip: Mip) -> bool:
        """Whether the installed licence admits a problem of this size."""
        ...
