"""Runs models in worker processes, so that the crash of one is its verdict and nobody else's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from coverage.families import family_of
from coverage.record import FAILED, Record

_LIMIT = 900  # seconds of one model


def examine_all(script: Path, files: Sequence[Path], jobs: int) -> Iterator[Record]:
    """One record per file as they are ready; each file has a fresh interpreter that runs `script --worker file`."""
    with ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(_run, script, file) for file in files]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _run(script: Path, file: Path) -> Record:
    command = [sys.executable, str(script), "--worker", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return _failed(file, f"no result after {_LIMIT} s")
    if done.returncode == 0:
        return Record(**json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return _failed(file, f"the worker ended with {_status(done.returncode)}: {last}")


def _status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _failed(file: Path, why: str) -> Record:
    return Record(file.stem, family_of(file.stem).name, f"{FAILED}: {why}")
