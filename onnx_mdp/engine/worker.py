"""The measuring process: reads pickled calls from its standard input, answers on its standard output.

    python -m onnx_mdp.engine.worker

It ends when its input does, so it never outlives the run that started it by more than one measurement.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from onnx_mdp.engine.station import Station
from onnx_mdp.errors import MdpError, WorkerError


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run that is interrupted closes our input
    _offer_to_oom_killer()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not disturb the answers
    _serve(sys.stdin.buffer, answers)


def _serve(calls: BinaryIO, answers: BinaryIO) -> None:
    station: Station | None = None
    while True:
        try:
            method, arguments = pickle.load(calls)
        except EOFError:
            return
        try:
            if station is None:
                station = Station(arguments[0])
                result: object = station.facts
            else:
                result = getattr(station, method)(*arguments)
        except MdpError as error:
            result = error
        except MemoryError:
            result = WorkerError("out of memory")
        pickle.dump(result, answers)
        answers.flush()


def _offer_to_oom_killer() -> None:
    """Be the process that goes when memory runs out, rather than the run that waits for us."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
