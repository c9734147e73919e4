"""LUT files as things to share: joined, exported, read back and cleaned up without mixing up what is comparable."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from onnx_mdp.errors import LutError, OutputError
from onnx_mdp.latency.exchange import read_rows, write_entries
from onnx_mdp.latency.library import (
    Unwanted,
    devices_of,
    garbage,
    hardware_of,
    held_rows,
    merge_rows,
    named_device,
    runtime_of,
    select,
)
from onnx_mdp.latency.lut import CANARY, Entry, LatencyTable, LutFile, Row, region_key

HERE = "onnxruntime 1.31.1, a processor, 1 thread"
THERE = "onnxruntime 1.30.0, another, with a comma, 4 threads"


def entry(text: str, ms: float = 1.5, day: int = 1, device: str = HERE, failed: str = "") -> Entry:
    stamp = f"2026-01-{day:02d}T00:00:00+00:00"
    return Entry(device, region_key(text), float(ms), ms + 0.1, 0.013, 7, stamp, text, failed)


def table(path: Path, *entries: Entry) -> Path:
    with closing(LutFile(path, create=True)) as file:
        file.put(entries)
    return path


def rows(*entries: Entry) -> list[Row]:
    return [Row(number, entry, intact=True) for number, entry in enumerate(entries)]


def damage(path: Path, text: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE entry SET ms = ms * 2 WHERE region = ?", (text,))


@pytest.mark.parametrize("suffix", [".json", ".csv", ".sqlite"])
def test_every_form_reads_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    entries = [
        entry('conv "a", b\nrelu ü', 0.1 + 0.2),
        entry("gemm", 1e-7, device=THERE),
        entry("softmax", 0.0, failed='crashed: "signal", 11\nand more'),
    ]
    path = tmp_path / f"table{suffix}"
    if suffix == ".sqlite":
        table(path, *entries)
    else:
        write_entries(path, entries)
    found = read_rows(path)
    assert all(row.intact for row in found)
    assert {row.entry for row in found} == set(entries)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_changed_number_in_an_export_is_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_entries(path, [entry("conv", 1.25), entry("gemm", 2.5)])
    path.write_text(path.read_text().replace("1.25", "1.35"))
    assert {row.entry.region: row.intact for row in read_rows(path)} == {"conv": False, "gemm": True}
    path.write_text(path.read_text().replace("2.5", '"slow"' if suffix == ".json" else "slow"))
    assert [row.intact for row in read_rows(path)] == [False, False]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "cannot be read as an exported"),
        ("a.json", '{"entries": []}', "its format is not"),
        ("a.json", '{"format": "onnx-mdp latency table", "version": 9, "entries": []}', "version 9"),
        ("a.csv", "a,b\n1,2\n", "its columns are not"),
        ("a.sqlite", "text" * 1000, "file is not a database"),
    ],
)
def test_what_is_no_table_is_said(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(LutError, match=f"{name}.*{message}"):
        read_rows(path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(LutError, match=r"absent\.sqlite: no such file"):
        read_rows(tmp_path / "absent.sqlite")
    assert not (tmp_path / "absent.sqlite").exists(), "looking at a file must not make it"
    with closing(sqlite3.connect(tmp_path / "other.db")) as db, db:
        db.execute("CREATE TABLE entry (a, b)")
    with pytest.raises(LutError, match=r"other\.db: this is no LUT file"):
        read_rows(tmp_path / "other.db")
    with pytest.raises(OutputError, match=r"a\.txt.*\.json or \.csv"):
        write_entries(tmp_path / "a.txt", [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_file_can_be_read(tmp_path: Path) -> None:
    path = table(tmp_path / "shared" / "t.sqlite", entry("conv"))
    path.chmod(0o444)
    path.parent.chmod(0o555)
    assert len(read_rows(path)) == 1
    path.parent.chmod(0o755)


def test_text_that_is_no_text_costs_one_row(tmp_path: Path) -> None:
    path = table(tmp_path / "t.sqlite", entry("conv"), entry("gemm"))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE entry SET region = CAST(x'ff00fe' AS TEXT) WHERE region = 'conv'")
    assert sorted(row.intact for row in read_rows(path)) == [False, True]
    assert len(LatencyTable(path, HERE)) == 1


def test_newest_wins_but_a_failure_replaces_nothing() -> None:
    held = held_rows(
        rows(entry("a", 1, day=2), entry("b", 1, day=2), entry("c", 1, day=2), entry("d", day=2, failed="x"))
    )
    new = rows(
        entry("a", 2, day=1), entry("b", 2, day=3), entry("c", day=9, failed="hung"), entry("d", 4, day=1), entry("e")
    )
    taken, facts = merge_rows(held, new)
    assert {e.region: e.ms for e in taken} == {"b": 2, "d": 4, "e": 1.5}
    assert (facts.added, facts.replaced, facts.older, facts.damaged) == (1, 2, 2, 0)
    again, facts = merge_rows(held, new)
    assert again == []
    assert (facts.added, facts.replaced) == (0, 0)


def test_rows_are_scaled_to_the_canary_they_move_under() -> None:
    """The other table was begun when the machine was half as fast, so all its times are twice as long."""
    held = held_rows(rows(entry(CANARY, 1.0), entry("a", 3.0, day=5)))
    taken, _ = merge_rows(held, rows(entry(CANARY, 2.0, day=9), entry("a", 6.2, day=9), entry("b", 10.0)))
    assert {e.region: e.ms for e in taken} == {"a": 3.1, "b": 5.0}
    assert held[HERE, region_key(CANARY)].ms == 1.0
    assert all(e.checksum == replace(e).checksum for e in taken)


def test_rows_of_another_device_keep_their_own_canary() -> None:
    held = held_rows(rows(entry(CANARY, 1.0), entry("a", 3.0)))
    theirs = rows(entry(CANARY, 2.0, device=THERE), entry("a", 6.0, device=THERE))
    taken, facts = merge_rows(held, theirs)
    assert {(e.region, e.ms) for e in taken} == {(CANARY, 2.0), ("a", 6.0)}
    assert facts.added == 1


def test_rows_whose_canary_is_lost_are_left_out_and_named() -> None:
    held = held_rows(rows(entry(CANARY, 1.0), entry("a", 3.0)))
    taken, facts = merge_rows(held, rows(entry("b", 10.0)))
    assert taken == []
    assert facts.apart == (HERE,)


def test_garbage_keeps_the_canary_of_what_stays() -> None:
    found = [entry(CANARY, day=1), entry("old", day=1), entry("new", day=9), entry("bad", day=9, failed="crashed")]
    found += [entry(CANARY, day=1, device=THERE), entry("x", day=9, device=THERE)]
    numbered = rows(*found)
    broken = Row(6, entry("damaged", day=9), intact=False)
    dropped = garbage([*numbered, broken], Unwanted("2026-01-05"))
    assert {r: n for r, n in dropped.items() if n} == {"damaged": [6], "failed": [3], "old": [1]}
    dropped = garbage(numbered, Unwanted(versions={"onnxruntime": "1.31.1"}))
    assert {r: n for r, n in dropped.items() if n} == {"failed": [3], "version": [5], "canary of nothing else": [4]}
    dropped = garbage(numbered, Unwanted(versions={"tensorrt": "10"}))
    assert {r: n for r, n in dropped.items() if n} == {"failed": [3]}, "rows of runtimes that are not here stay"


def test_dropping_rows_gives_their_space_back(tmp_path: Path) -> None:
    path = table(tmp_path / "t.sqlite", *(entry(f"region {i}\n" + "x" * 500) for i in range(2000)), entry("kept"))
    before = path.stat().st_size
    with closing(LutFile(path)) as file:
        file.drop(row.number for row in list(file.rows()) if row.entry.region != "kept")
    assert path.stat().st_size < before / 10
    assert [row.entry.region for row in read_rows(path)] == ["kept"]


def test_devices_and_entries_are_listed(tmp_path: Path) -> None:
    path = table(tmp_path / "t.sqlite", entry(CANARY), entry("conv", 1, day=2), entry("conv b", 3, day=4))
    table(path, entry("gemm", failed="no", day=5), entry("gemm", device=THERE), entry("broken"))
    damage(path, "broken")
    here, there = devices_of(read_rows(path))
    assert (here.device, here.entries, here.failed, here.damaged) == (HERE, 2, 1, 1)
    assert (here.oldest[:10], here.newest[:10]) == ("2026-01-02", "2026-01-05")
    assert (there.device, there.entries) == (THERE, 1)
    assert [e.region for e in select(read_rows(path), HERE, "conv*")] == ["conv b", "conv"]
    assert len(select(read_rows(path), None, "gemm")) == 2


def test_a_device_is_named_by_any_part_that_fits_no_other() -> None:
    assert named_device("ANOTHER", (HERE, THERE), "--device") == THERE
    assert named_device(HERE, (HERE, HERE + "s"), "--device") == HERE
    with pytest.raises(LutError, match=r"--device 'onnx': fits several.*1\.30\.0.*; onnxruntime 1\.31\.1"):
        named_device("onnx", (HERE, THERE), "--device")
    with pytest.raises(LutError, match=r"'jetson': there is no such device, there are: onnxruntime"):
        named_device("jetson", (HERE, THERE), "--device")


def test_parts_of_a_fingerprint() -> None:
    assert runtime_of(THERE) == ("onnxruntime", "1.30.0")
    assert hardware_of(THERE) == "another, with a comma"


def test_exported_json_is_plain(tmp_path: Path) -> None:
    write_entries(tmp_path / "t.json", [entry("conv", 1.5)])
    (row,) = json.loads((tmp_path / "t.json").read_text())["entries"]
    assert (row["device"], row["region"], row["ms"], row["count"]) == (HERE, "conv", 1.5, 7)
