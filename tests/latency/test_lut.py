"""The latency table: what is finished survives a kill, what is damaged is measured again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnx_mdp.errors import LutError
from onnx_mdp.latency.lut import Entry, LatencyTable, default_path, now, region_key
from onnx_mdp.runtime.base import Fingerprint
from tests.conftest import MODELS

DEVICE = Fingerprint("runtime", "1.0", "a processor", 1)
OTHER = Fingerprint("runtime", "2.0", "a processor", 1)


def entry(text: str, ms: float, device: Fingerprint = DEVICE) -> Entry:
    return Entry(str(device), region_key(text), ms, ms, 0.01, 5, now(), text)


def test_rows_are_kept_per_device(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lut.sqlite"
    table = LatencyTable(path, DEVICE)
    table.put([entry("conv", 1.5), entry("gemm", 0.5)])
    table.put([entry("conv", 2.0)])
    table.close()
    again = LatencyTable(path, DEVICE)
    assert len(again) == 2
    found = again.get(region_key("conv"))
    assert found is not None
    assert found.ms == 2.0
    assert LatencyTable(path, OTHER).get(region_key("conv")) is None


def test_damaged_rows_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "lut.sqlite"
    table = LatencyTable(path, DEVICE)
    table.put([entry("conv", 1.5), entry("gemm", 0.5)])
    table.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE entry SET ms = 99 WHERE region = 'conv'")
    again = LatencyTable(path, DEVICE)
    assert again.get(region_key("conv")) is None
    assert again.get(region_key("gemm")) is not None


def test_file_that_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "lut.sqlite"
    path.write_bytes(b"this is no database, but it is long enough to be read as one" * 20)
    with pytest.raises(LutError, match=r"lut\.sqlite.*--lut"):
        LatencyTable(path, DEVICE)


def test_default_path_follows_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "onnx-mdp" / "lut.sqlite"


def rows(path: Path) -> int:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM entry").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_kill_during_the_fill_loses_no_finished_measurement(tmp_path: Path) -> None:
    """Kill -9 in the middle of the fill: every row that was there before still is, and the next run goes on from it.

    Comparisons of whole models are made again each time, and take the place of those that they contradict.
    """
    path = tmp_path / "lut.sqlite"
    command = [sys.executable, "-m", "onnx_mdp", "prune", str(MODELS / "digits_cnn.onnx"), "--latency", "70%"]
    command += ["--lut", str(path), "-o", str(tmp_path / "out.onnx"), "--quiet"]
    running = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while rows(path) < 60 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    finished = rows(path)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert finished >= 60, "the fill did not get far enough to be killed in the middle"
    assert not (tmp_path / "out.onnx").exists()
    survived = rows(path)
    assert survived >= finished
    stamps = "SELECT key, measured, ms FROM entry WHERE region NOT LIKE 'whole model %' ORDER BY key"
    with sqlite3.connect(path) as db:
        before = db.execute(stamps).fetchall()
    subprocess.run(command, check=True, timeout=300)
    with sqlite3.connect(path) as db:
        after = db.execute(stamps).fetchall()
    assert set(before) <= set(after), "a finished measurement was lost or measured again"
    assert len(after) > len(before)
    assert (tmp_path / "out.onnx").exists()
