"""Analysis takes time in proportion to a network's depth, and little more memory than its weights."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.conftest import analysis_of
from tests.scaling.deep import long_skip_network, residual_network, transformer

# Reads a model, analyzes it, and prints the bytes that took at most, with or without those of reading, beyond what the
# process held before.
MEASURE = """
import sys
from onnx_mdp.graph.load import load
from onnx_mdp.graph.network import read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.groups.find import analyze

def held(key):
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) * 1024

def forget_peak():
    try:
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
    except OSError:
        print("no peak")
        sys.exit()
    return held("VmRSS")

before = forget_peak()
_, model = load(sys.argv[1])
if sys.argv[2] == "analysis":
    before = forget_peak()
normalize(model, {})
assert analyze(read_network(model, {})).groups
print(held("VmHWM") - before)
"""


def seconds(model: onnx.ModelProto) -> float:
    """Processor time of one analysis, without collector passes, which depend on what else lives in the process."""
    gc.collect()
    gc.disable()
    started = time.process_time()
    analysis = analysis_of(model)
    taken = time.process_time() - started
    gc.enable()
    assert analysis.groups
    assert analysis.blocks
    return taken


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    [(residual_network, 20), (long_skip_network, 30), (transformer, 10)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_ten_times_the_layers_take_at_most_fifteen_times_the_time(
    architecture: Callable[[int, int], onnx.ModelProto], blocks: int
) -> None:
    models = architecture(blocks, 8), architecture(10 * blocks, 8)
    rounds = [tuple(map(seconds, models)) for _ in range(4)]
    short, long = (min(times) for times in zip(*rounds, strict=True))
    assert long <= 15 * short, f"{long:.3f} s against {short:.3f} s"


def test_thousand_layers_are_analyzed() -> None:
    """Depth never becomes depth of recursion."""
    analysis = analysis_of(residual_network(500, 2))
    assert len(analysis.blocks) == 500


@pytest.mark.parametrize(("part", "limit"), [("analysis", 1), ("all", 2.5)])
def test_analysis_makes_no_copy_of_the_weights(part: str, limit: float, tmp_path: Path) -> None:
    """Reading takes the file, and the model that is parsed from it; the checker's copy is gone by then."""
    path = tmp_path / "model.onnx"
    onnx.save(transformer(40, 256), str(path))
    command = [sys.executable, "-c", MEASURE, str(path), part]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    if result.stdout.strip() == "no peak":
        pytest.skip("this system does not tell a process's peak memory since a given moment")
    assert int(result.stdout) < limit * path.stat().st_size
