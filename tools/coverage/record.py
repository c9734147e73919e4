"""What is recorded of one model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

EXACT, LEFT_ALONE, FAILED = "exact", "left alone", "FAILED"


@dataclass
class Record:
    """One model's row.

    Attributes:
        model: the file's name.
        family: its row of `coverage.families`.
        verdict: `exact`, `left alone: <reason>` or `FAILED: <why>`.
        groups, units: what can be cut; `kinds` counts the groups of each kind.
        cut_kinds: likewise, of the groups that halving did make smaller.
        attention: whether a Softmax feeds a product of two activations.
        blocks, removed: removable blocks, and how many the second variant removed.
        prunable_parameters, prunable_macs: shares that carry at least one unit that can be cut.
        macs_lossless: share that moving selections up saves before anything is cut.
        parameters_left, macs_left: shares left after halving every group.
        proof: largest relative error of both variants against the masked original; `tolerance` what is allowed.
        compared: `outputs`, or `before selection` where only those tensors agree (see `coverage.proof`).
        seconds: CPU time of loading and analysis, streams opened or not, whichever takes longer.
        memory_bytes: peak memory of loading and analysis (see `coverage.memory`); `opened_bytes` with streams opened.
        bytes: the model's size.
        freezes: parameters that no group shrinks, by what locks them.
        unknown: nodes without a rule, by operator; `refused` those that a rule refused, by operator and reason.
    """

    model: str
    family: str
    verdict: str = ""
    groups: int = 0
    units: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    cut_kinds: dict[str, int] = field(default_factory=dict)
    attention: bool = False
    blocks: int = 0
    removed: int = 0
    prunable_parameters: float = 0.0
    prunable_macs: float = 0.0
    macs_lossless: float = 0.0
    parameters_left: float = 1.0
    macs_left: float = 1.0
    proof: float | None = None
    tolerance: float | None = None
    compared: str = ""
    seconds: float = 0.0
    memory_bytes: int = 0
    opened_bytes: int = 0
    bytes: int = 0
    freezes: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """The verdict without its reason."""
        return self.verdict.partition(":")[0]

    def as_json(self) -> dict[str, Any]:
        """Plain data; `Record(**data)` reads it back."""
        return asdict(self)
