"""`explain` from Python: models from memory, options, errors."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import onnx_mdp
from onnx_mdp.config import ExplainOptions
from onnx_mdp.errors import MdpError, UnknownNameError
from tests.conftest import build_model


def test_explain_a_model_from_memory_at_the_asked_shape() -> None:
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["a"]), onnx.helper.make_node("Relu", ["a"], ["y"])]
    model = build_model(nodes, {"x": ("n", 3, "h", 8)}, ["y"], {"w": (4, 3, 1, 1)})
    found = onnx_mdp.explain(model, "a", ExplainOptions(shape="x:2x3x6x8"))
    assert found.model == "test"
    assert found.tensor is not None
    assert found.tensor.tensor.shape == (2, 4, 6, 8)
    assert found.tensor.factors[1].reasons[0].reason == "it is a graph output"
    json.dumps(found.to_json())


def test_names_of_inspect_can_be_asked_for(vit: Path) -> None:
    found = onnx_mdp.inspect(vit)
    for entry in found["groups"][:3]:
        group = onnx_mdp.explain(vit, entry["name"]).group
        assert group is not None
        assert (group.kind, group.units, group.floor) == (entry["kind"], entry["units"], entry["floor"])
    for entry in found["locked"]:
        reasons = [[str(reason) for reason in locked.reasons] for locked in onnx_mdp.explain(vit, entry["name"]).locked]
        assert entry["reasons"] in reasons


def test_unknown_name_is_an_error_with_the_nearest(cnn: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'stage1.0.conv9'; the nearest are stage1.0.conv1, ") as caught:
        onnx_mdp.explain(cnn, "stage1.0.conv9")
    assert isinstance(caught.value, MdpError)
