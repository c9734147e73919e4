"""`onnx-mdp lut` on the command line."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import onnxruntime
import pytest

from onnx_mdp.latency.lut import CANARY, Entry, LutFile, region_key
from tests.cli.test_cli import run

OLD = "onnxruntime 1.2.3, a processor, 1 thread"
NEW = f"onnxruntime {onnxruntime.__version__}, a processor, 1 thread"
CONV = "ai.onnx.Conv(group=1,kernel_shape=[3, 3]) %0:x[1, 8, 4, 4]float %1:w[8, 8, 3, 3]float -> %2:x[1, 8, 4, 4]float"


def entry(device: str, text: str, ms: float, days: float = 0, failed: str = "") -> Entry:
    stamp = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    return Entry(device, region_key(text), ms, ms, 0.02, 9, stamp, text, failed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two devices: four rows of one, two of them old or failed, and one of the other; one more is damaged."""
    path = tmp_path / "t.sqlite"
    entries = [entry(NEW, CANARY, 0.5, 40), entry(NEW, CONV, 0.25, 3), entry(NEW, "gemm\nrelu", 0.75, 40)]
    entries += [entry(NEW, "softmax", 0.0, failed="the runtime crashed: signal 11"), entry(NEW, "broken", 1.0)]
    entries += [entry(OLD, CANARY, 1.0), entry(OLD, "gemm", 2.0)]
    with closing(LutFile(path, create=True)) as file:
        file.put(entries)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE entry SET ms = 9 WHERE region = 'broken'")
    return path


def test_show_lists_devices_then_entries(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    status, out, _ = run(capsys, "lut", "show", path, "--json")
    assert status == 0
    found = json.loads(out)
    assert [(d["device"], d["entries"], d["failed"], d["damaged"]) for d in found["devices"]] == [
        (NEW, 2, 1, 1),
        (OLD, 1, 0, 0),
    ]
    assert "entries" not in found
    status, out, _ = run(capsys, "lut", "show", path, "--device", onnxruntime.__version__)
    assert status == 0
    assert "40 days ago" in out
    for cell in ("Conv x[1, 8, 4, 4]float", "0.25", "2.0%", "3 days ago", "softmax: the runtime crashed", "failed"):
        assert cell in out
    assert "group=1" not in out, "attributes would bury the sizes"
    _, out, _ = run(capsys, "lut", "show", path, "--match", "gemm*", "--json")
    assert [(e["device"], e["ms"]) for e in json.loads(out)["entries"]] == [(OLD, 2.0), (NEW, 0.75)]
    _, out, _ = run(capsys, "lut", "show", path, "--match", "nothing*")
    assert "no entry matches" in out


@pytest.mark.parametrize("suffix", [".json", ".csv", ".sqlite"])
def test_export_and_merge_round_trip(capsys: pytest.CaptureFixture[str], path: Path, suffix: str) -> None:
    exported, back = path.with_name(f"out{suffix}"), path.with_name("back.sqlite")
    status, out, err = run(capsys, "lut", "export", path, "-o", exported)
    assert status == 0, err
    assert "(6 rows)" in out
    status, out, err = run(capsys, "lut", "merge", exported, "-o", back, "--json")
    assert status == 0, err
    (merged,) = json.loads(out)["merged"]
    assert (merged["added"], merged["damaged"], merged["apart"]) == (4, 0, [])
    with closing(LutFile(path)) as before, closing(LutFile(back)) as after:
        intact = {row.entry for row in before.rows() if row.intact}
        assert intact == {row.entry for row in after.rows()}
        assert len(intact) == 6


def test_merge_reports_what_it_skips(capsys: pytest.CaptureFixture[str], path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with closing(LutFile(other, create=True)) as file:
        file.put([entry(NEW, CANARY, 1.0), entry(NEW, CONV, 0.5), entry(OLD, "no canary for this", 3.0)])
    status, out, _ = run(capsys, "lut", "merge", path, other, "-o", tmp_path / "all.sqlite", "--json")
    assert status == 0
    found = json.loads(out)
    first, second = found["merged"]
    assert (first["added"], first["damaged"]) == (4, 1)
    assert (second["added"], second["replaced"], second["apart"]) == (0, 1, [OLD])
    _, out, _ = run(capsys, "lut", "show", tmp_path / "all.sqlite", "--match", "*Conv*", "--json")
    (conv,) = json.loads(out)["entries"]
    assert conv["ms"] == 0.25, "0.5 ms at half the speed"
    _, out, _ = run(capsys, "lut", "merge", other, "-o", path)
    assert "the row of its canary is missing" in " ".join(out.split())


def test_export_of_one_device(capsys: pytest.CaptureFixture[str], path: Path, tmp_path: Path) -> None:
    assert run(capsys, "lut", "export", path, "--device", "1.2.3", "-o", tmp_path / "o.json")[0] == 0
    entries = json.loads((tmp_path / "o.json").read_text())["entries"]
    assert {e["device"] for e in entries} == {OLD}
    assert CANARY in {e["region"] for e in entries}, "rows mean nothing without what they are relative to"


def test_gc_says_what_goes_before_it_goes(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    before = path.read_bytes()
    status, out, _ = run(capsys, "lut", "gc", path, "--days", "30", "--other-versions", "--dry-run", "--json")
    assert status == 0
    promised = json.loads(out)
    expected = {"damaged": 1, "failed": 1, "old": 1, "version": 1, "canary of nothing else": 1}
    assert (promised["dropped"], promised["kept"]) == (expected, 2)
    assert path.read_bytes() == before
    status, out, _ = run(capsys, "lut", "gc", path, "--days", "30", "--other-versions")
    assert "dropped 1 rows: damaged" in out
    with closing(LutFile(path)) as file:
        assert {row.entry.region for row in file.rows()} == {CANARY, CONV}
    status, out, _ = run(capsys, "lut", "gc", path)
    assert "nothing to drop" in out


def test_without_a_file_the_users_own_table(
    capsys: pytest.CaptureFixture[str], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    status, _, err = run(capsys, "lut", "show")
    assert status == 1
    assert "lut.sqlite: no such file" in err
    assert run(capsys, "lut", "merge", path)[0] == 0
    status, out, _ = run(capsys, "lut", "show")
    assert status == 0
    assert str(tmp_path / "onnx-mdp" / "lut.sqlite") in out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["show", "absent.sqlite"], 1, "absent.sqlite: no such file; give a LUT file"),
        (["show", "t.sqlite", "--device", "jetson"], 1, "--device 'jetson': there is no such device, there are: "),
        (["show", "t.sqlite", "--device", "processor"], 1, "fits several devices"),
        (["merge", "t.sqlite", "-o", "out.csv"], 1, "rows are merged into a LUT file"),
        (["merge", "t.sqlite", "absent.json", "-o", "new.sqlite"], 1, "absent.json: cannot be read"),
        (["export", "t.sqlite", "-o", "out.txt"], 1, "out.txt: tables are exported as .json, .csv, .sqlite"),
        (["export", "t.sqlite", "-o", "t.sqlite"], 1, "t.sqlite: exists; use lut merge"),
        (["export", "t.sqlite", "-o", "no/folder/out.csv"], 1, "out.csv: cannot be written"),
        (["gc", "t.sqlite", "--days", "-1"], 1, "--days -1: give a number of days"),
        (["gc", "absent.sqlite"], 1, "no such file"),
        (["export", "t.sqlite"], 2, "--output"),
        (["merge"], 2, "FILE"),
        (["show", "--dvice", "x"], 2, "--dvice"),
    ],
)
def test_errors(
    capsys: pytest.CaptureFixture[str],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(path.parent)
    found, out, err = run(capsys, "lut", *arguments)
    assert (found, out) == (status, "")
    assert message in err
    assert status == 2 or len(err.strip().splitlines()) == 1
    assert not (path.parent / "new.sqlite").exists(), "nothing is written unless every file can be read"
