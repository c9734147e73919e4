"""Latencies of a device that is not here: read from its rows in a table, never measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from onnx_mdp.engine.base import Asked, Duel, Engine, Facts, Failure, Model, Timing
from onnx_mdp.errors import LutError
from onnx_mdp.latency.library import hardware_of, runtime_of
from onnx_mdp.latency.lut import CANARY, LatencyTable, region_key
from onnx_mdp.latency.measure import Build, Meter, Progress, silent
from onnx_mdp.runtime.base import Fingerprint, Kernel, RuntimeSpec

_WHOLE = "the time of a whole model"


class AbsentEngine(Engine):
    """Stands where an engine stands; whatever is asked of it is missing in the table.

    Args:
        table: the rows of the device.
    """

    def __init__(self, table: LatencyTable) -> None:
        self._table = table
        device = fingerprint_of(table.device)
        name, *options = device.runtime.split(" ")
        self.spec = RuntimeSpec(name, device.threads, tuple(options))
        self.facts = Facts(device, profiles=True, trusts_busy=device.threads == 1)  # rows may have been profiled

    def missing(self, what: str) -> NoReturn:
        """Say what is missing, and how it gets there.

        Raises:
            LutError: always.
        """
        asked = f" --runtime {self.spec.name}" * (self.spec.name != "onnxruntime")
        asked += "".join(f" --runtime-option {option}" for option in self.spec.options)
        asked += f" --threads {self.spec.threads}" * (self.spec.threads != 1)
        raise LutError(
            f"--lut-device: {self._table.path} lacks {what} of this model on {self._table.device}; fill it on that "
            f"device with onnx-mdp profile MODEL --lut FILE{asked} and the same --shape, --lock, --min-keep, "
            "--multiple and --fill as here, then put it in here with onnx-mdp lut merge"
        )

    def time(self, models: Sequence[Model], asked: Asked) -> list[Timing | Failure]:
        """Cannot be measured here."""
        self.missing(f"{len(models)} entries")

    def canary_ms(self) -> float:
        """Cannot be measured here."""
        self.missing("the canary")

    def duel(self, first: Model, second: Model, seconds: tuple[float, float], precision: float) -> Duel:
        """Cannot be measured here."""
        self.missing(_WHOLE)

    def profile(self, model: Model, runs: int) -> list[Kernel]:
        """Cannot be measured here."""
        self.missing(_WHOLE)

    def renew(self) -> None:
        """There is no process."""

    def close(self) -> None:
        """There is nothing to end."""


class BorrowedMeter(Meter):
    """Reads the rows of a device that is not here.

    Attributes:
        strict: whether a missing entry is an error, or is left to interpolation between those that are there.
        absent: entries that were left to interpolation.
    """

    engine: AbsentEngine

    def __init__(self, table: LatencyTable, precision: float) -> None:
        super().__init__(AbsentEngine(table), table, precision)
        self.strict = True
        self.absent: set[str] = set()

    def fill(self, requests: Mapping[str, Build], progress: Progress = silent) -> None:
        """Look whether the requests are there.

        Raises:
            LutError: some are not, and the meter is strict; the message says how many.
        """
        missing = {text for text in requests if self._is_missing(text)}
        self.reused += len(requests.keys() - missing - self._asked)
        self._asked |= requests.keys()
        progress(len(requests) - len(missing), len(requests))
        if missing and self.strict:
            self.engine.missing(f"{len(missing)} of {len(requests)} entries")
        self.absent |= missing

    def _reference(self) -> float:
        """The canary's time, which nothing is compared to here."""
        entry = self.table.get(region_key(CANARY))
        return entry.ms if entry else 1.0


def fingerprint_of(device: str) -> Fingerprint:
    """The fingerprint that has this text."""
    threads = device.rpartition(", ")[2].partition(" ")[0]
    return Fingerprint(*runtime_of(device), hardware_of(device), int(threads) if threads.isdigit() else 1)
