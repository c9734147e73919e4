"""Options of the commands that manage latency tables; see `onnx_mdp.config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class LutShowOptions:
    """How to list latency tables.

    Attributes:
        device: List the entries of this device: its fingerprint, or a part that fits no other.
        match: List the entries whose region matches this shell pattern, such as `'*Conv*'`.
        json: Print JSON.
    """

    device: str | None = None
    match: str | None = None
    json: Annotated[bool, Parameter(negative="")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class LutMergeOptions:
    """How to join latency tables.

    Attributes:
        output: LUT file that the rows go into, made if it is missing; by default the user's own.
        json: Print JSON.
    """

    output: Annotated[Path | None, Parameter(alias="-o")] = None
    json: Annotated[bool, Parameter(negative="")] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", Path(self.output) if self.output is not None else None)


@Parameter(name="*")
@dataclass(frozen=True)
class LutExportOptions:
    """How to write a latency table for others.

    Attributes:
        output: File to write: `.json`, `.csv`, or `.sqlite` for a LUT file.
        device: Only this device: its fingerprint, or a part that fits no other.
    """

    output: Annotated[Path, Parameter(alias="-o")]
    device: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", Path(self.output))


@Parameter(name="*")
@dataclass(frozen=True)
class LutGcOptions:
    """What to drop from a latency table, besides damaged and failed rows.

    Attributes:
        days: Drop rows measured more than this many days ago.
        other_versions: Drop rows of versions of the installed runtimes other than the installed ones.
        dry_run: Only say what would go.
        json: Print JSON.
    """

    days: float | None = None
    other_versions: Annotated[bool, Parameter(negative="")] = False
    dry_run: Annotated[bool, Parameter(negative="")] = False
    json: Annotated[bool, Parameter(negative="")] = False
