"""Options of the commands about the program itself; see `onnx_mdp.config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onnx_mdp.config import SearchOptions, convert


@Parameter(name="*")
@dataclass(frozen=True)
class FrontierOptions:
    """Which plans `pareto` looks for.

    Attributes:
        from_: Slowest point: a time per run such as `4ms`, or a share of the dense model's; 90% by default.
        to: Fastest point, likewise; 30% by default.
        points: How many points, evenly spaced; 12 by default.
        damage_max: Instead of points, the fastest plan whose damage is at most this number.
        plot: Draw the frontier into this file, `.svg`, `.png` or `.pdf`; needs the extra `plot`.
        plans: Folder to write a plan file of every point to; `onnx-mdp apply` carries one out.
        output: File to write the frontier to, as JSON.
        json: Print JSON.
    """

    from_: str | None = None
    to: str | None = None
    points: int | None = None
    damage_max: float | None = None
    plot: Path | None = None
    plans: Path | None = None
    output: Annotated[Path | None, Parameter(alias="-o")] = None
    json: Annotated[bool, Parameter(negative="")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class ParetoOptions(SearchOptions, FrontierOptions):
    """How to find the frontier of damage and latency."""

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, paths=("plot", "plans", "output"))


@Parameter(name="*")
@dataclass(frozen=True)
class SolveOptions:
    """How to solve a program.

    Attributes:
        solver: `decomposition`; or one linear program in `highs`, `gurobi`, `scip`, or `auto`: Gurobi where its
            licence admits the size, else HiGHS.
        time_limit: Seconds after which the best plan so far is the answer.
        output: File to write the answer to, as JSON; without it the answer is printed.
    """

    solver: str = "decomposition"
    time_limit: float = 60.0
    output: Annotated[Path | None, Parameter(alias="-o")] = None

    def __post_init__(self) -> None:
        convert(self, paths=("output",))
