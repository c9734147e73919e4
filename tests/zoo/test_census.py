"""Every operator in the collection has a rule, or is on a list of those that are left alone on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest

from onnx_mdp.rules import registered
from tests.zoo.variants import FOLDER, zoo_models

# A rule may still refuse every node of an operator (If, Loop, NonZero, NonMaxSuppression): that is a decision, too.
LEFT_ALONE: dict[str, str] = {}
NORMALIZED = {"Constant": "becomes an initializer"}


def operators(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Domain and name of every operator, in subgraphs as well."""
    for node in graph.node:
        yield node.domain or "ai.onnx", node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from operators(inner)


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there")
def test_every_operator_has_a_rule() -> None:
    known = {(domain, op) for domain, op, _ in registered()}
    used: dict[tuple[str, str], str] = {}
    for name in zoo_models():
        used |= dict.fromkeys(operators(onnx.load(str(FOLDER / f"{name}.onnx")).graph), name)
    missing = {op: model for (domain, op), model in used.items() if (domain, op) not in known}
    assert set(missing) == {*LEFT_ALONE, *NORMALIZED}, missing
