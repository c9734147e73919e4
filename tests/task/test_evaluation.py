"""Accuracy by labels and by a function: the right number, and errors that say what does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_mdp.errors import EvaluationError, OptionError
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.task.base import Evaluation
from onnx_mdp.task.function import ByFunction
from onnx_mdp.task.top1 import Top1, set_aside
from tests.conftest import build_model


def samples(x: np.ndarray, labels: np.ndarray | None, batch: int | None = None) -> Inputs:
    spec = InputSpec("x", np.dtype(np.float32), (x.shape[1],), batch)
    return Inputs((spec,), {"x": x}, np.arange(len(x)), labels)


def answer(*shape: int, before: bool = False) -> bytes:
    """A model that returns its input as logits, of a shape, perhaps after an output that is no logits."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"]), helper.make_node("ReduceSum", ["x"], ["sum"])]
    outputs = ["sum", "y"] if before else ["y"]
    weights = {"shape": np.array(shape, np.int64)}
    model = build_model(nodes if before else nodes[:1], {"x": ("N", 5)}, outputs, weights)
    return model.SerializeToString()


@pytest.mark.parametrize("model", [answer(-1, 5), answer(-1, 5, 1, 1), answer(-1, 1, 5), answer(-1, 5, before=True)])
@pytest.mark.parametrize("count", [1, 7, 30])
def test_top1_counts_right_answers(runtime: Runtime, model: bytes, count: int) -> None:
    rng = np.random.default_rng(count)
    x = rng.normal(size=(count, 5)).astype(np.float32)
    labels = rng.integers(0, 5, count)
    found = Top1(samples(x, labels), runtime, held_out=True)
    assert found.accuracy(model) == np.mean(x.argmax(axis=1) == labels)
    assert (found.metric, found.inputs) == ("top-1", count)


def test_what_is_not_a_number_is_no_answer(runtime: Runtime) -> None:
    x = np.array([[1, np.nan, 2, 0, 0]], np.float32)
    inputs = samples(np.zeros_like(x), np.array([2]))
    model = build_model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": ("N", 5)}, ["y"], {"w": x})
    assert Top1(inputs, runtime, held_out=True).accuracy(model.SerializeToString()) == 1


@pytest.mark.parametrize("labels", [[0, 5, 1], [0, -1, 1]])
def test_labels_of_another_count_are_refused(runtime: Runtime, labels: list[int]) -> None:
    inputs = samples(np.eye(5, dtype=np.float32)[:3], np.array(labels))
    with pytest.raises(EvaluationError, match=rf"are {min(labels)} to {max(labels)}, the model has 5 classes"):
        Top1(inputs, runtime, held_out=True).accuracy(answer(-1, 5))


def test_a_model_without_logits_is_refused(runtime: Runtime) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Concat", ["a", "a"], ["y"], axis=2),
    ]
    model = build_model(nodes, {"x": ("N", 5)}, ["y"], {"shape": np.array([-1, 5, 1], np.int64)})
    inputs = samples(np.eye(5, dtype=np.float32)[:4], np.arange(4))
    with pytest.raises(EvaluationError, match="no output has a number per class .* they are 4x5x2; give --eval"):
        Top1(inputs, runtime, held_out=True).accuracy(model.SerializeToString())


@pytest.mark.parametrize("batch", [None, 4])
def test_a_third_is_set_aside(batch: int | None) -> None:
    x = np.arange(35, dtype=np.float32)[:, None]
    rest, apart = set_aside(samples(x, np.arange(35), batch), seed=0)
    assert apart.count == (11 if batch is None else 8)
    assert rest.count == 24
    assert not set(rest.rows) & set(apart.rows)
    for part in (rest, apart):
        assert part.labels is not None
        assert np.array_equal(np.concatenate([feed["x"] for feed in part.batches()])[:, 0], part.labels)
    assert np.array_equal(set_aside(samples(x, np.arange(35), batch), seed=0)[1].rows, apart.rows)
    assert not np.array_equal(set_aside(samples(x, np.arange(35), batch), seed=1)[1].rows, apart.rows)


def test_too_few_to_set_aside() -> None:
    with pytest.raises(EvaluationError, match="2 are too few to set 1 aside"):
        set_aside(samples(np.zeros((2, 5), np.float32), np.zeros(2, int)), seed=0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("task_of_test.py").write_text(
        "import onnx\n"
        "seen = []\n"
        "def nodes(path):\n"
        "    seen.append(path)\n"
        "    return len(onnx.load(path).graph.node)\n"
        "def fails(path):\n"
        "    return 1 / 0\n"
        "def text(path):\n"
        "    return 'good'\n"
        "def nothing(path):\n"
        "    pass\n"
        "def infinite(path):\n"
        "    return float('inf')\n"
        "def takes_none():\n"
        "    return 1.0\n"
        "number = 3\n"
    )
    return tmp_path


def test_a_function_is_given_a_file(here: Path) -> None:
    model, seen = answer(-1, 5), []
    Path("given.onnx").write_bytes(model)

    def nodes(path: str) -> int:
        seen.append(path)
        return len(onnx.load(path).graph.node)

    evaluation: Evaluation = ByFunction(nodes)
    assert evaluation.accuracy("given.onnx") == evaluation.accuracy(model) == 1.0
    assert seen[0] == "given.onnx"
    assert not os.path.exists(seen[1])
    assert evaluation.metric.endswith("nodes")
    assert evaluation.inputs is None
    assert ByFunction("task_of_test:nodes").accuracy(model) == 1.0
    assert ByFunction("task_of_test:nodes").metric == "task_of_test:nodes"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"--eval task_of_test:fails: ZeroDivisionError: division by zero, at .*task_of_test\.py:7$"),
        ("text", "--eval task_of_test:text: returns a str; return one number"),
        ("nothing", "returns a NoneType; return one number"),
        ("infinite", "returns inf; return a finite number, higher where better"),
        ("takes_none", "TypeError: .*takes_none"),
        ("number", "is a int; name a function that takes a path and returns a number"),
        ("absent", "module 'task_of_test' has no 'absent'"),
    ],
)
def test_errors_of_a_function(here: Path, name: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        ByFunction(f"task_of_test:{name}").accuracy(answer(-1, 5))


def test_a_missing_module_and_a_malformed_name(here: Path) -> None:
    with pytest.raises(EvaluationError, match="--eval none_such:f: no module 'none_such' here or installed"):
        ByFunction("none_such:f").accuracy(b"")
    with pytest.raises(OptionError, match="--eval accuracy: not of the form module:function"):
        ByFunction("accuracy")
