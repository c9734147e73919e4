"""Takes packed projections apart by splitting an axis, instead of picking positions of a new one.

Exporters write queries, keys and values as one matrix product, a Reshape to (..., 3, heads, width), a Transpose and a
pick along the 3. A tensor has one width, so that ties the width of queries to that of values. Splitting the packed
axis into its parts first, and moving each part on its own, computes the same and leaves each part a width of its own.

A pick is pushed up through the moves before it, one by one, until it reaches the Reshape that made its axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_mdp.graph.infer import infer
from onnx_mdp.graph.shapes import Shape, input_shapes

_MOST_PARTS = 16
_MOVES = ("Transpose", "Squeeze", "Unsqueeze")
_CODES = ("QuantizeLinear", "DequantizeLinear")  # with one scale for all, they move through any of the moves


def unpack(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> None:
    """Replace moves of a packed tensor and picks along its outermost new axis by a Split and moves of each part."""
    _Unpacker(model, asked).run()


@dataclass(frozen=True)
class _Pick:
    """A tensor that is one position of another's axis, after some moves; each with the axis's place in its input."""

    source: str
    axis: int
    position: int
    after: tuple[tuple[onnx.NodeProto, int], ...] = ()


class _Unpacker:
    def __init__(self, model: onnx.ModelProto, asked: Mapping[str, Shape]) -> None:
        self.graph = model.graph
        facts = infer(model, input_shapes(model.graph, asked))
        self.shapes, self.values = facts.shapes, facts.values
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.literal = {tensor.name for tensor in model.graph.initializer}
        self.parts: dict[str, list[str]] = {}

    def run(self) -> None:
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            nodes += self._pushed(node) or [node]
        if self.parts:
            copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
            del self.graph.node[:]
            self.graph.node.extend(copies)

    def _pushed(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """What computes the same as a pick from parts of a packed axis; None where the node is no such pick."""
        pick = self._pick(node)
        if pick is None:
            return None
        moves, axes = [], [pick.axis]
        mover = self.producers.get(pick.source)
        while mover is not None and mover.op_type in (*_MOVES, *_CODES):
            axis = self._axis_before(mover, axes[-1])
            if axis is None:
                return None
            moves.append(mover)
            axes.append(axis)
            mover = self.producers.get(mover.input[0])
        packed = None if mover is None else self._packed_axis(mover, axes[-1])
        if mover is None or packed is None:
            return None
        made = self._split(mover, packed, axes[-1])
        moved = self._moved(mover, node.output[0], axes[-1], pick.position)
        before = zip(reversed(moves), reversed(axes[1:]), strict=True)
        for move, axis in (*before, *reversed(pick.after)):
            moved.append(self._without(move, axis, moved[-1].output[0], f"{node.output[0]}/moved{len(moved)}"))
        moved[-1].output[0] = node.output[0]
        return made + moved

    def _pick(self, node: onnx.NodeProto) -> _Pick | None:
        """The pick a node completes: a Gather of one position, or a Squeeze of a slice or a part of size one."""
        if node.op_type == "Gather":
            at, axis = self.values.get(node.input[1]), _attribute(node, "axis", 0)
            shape = self.shapes.get(node.input[0])
            if at is None or at.ndim or shape is None:
                return None
            return _Pick(node.input[0], axis % len(shape), int(at) % shape[axis])
        axes = self._axes(node) if node.op_type == "Squeeze" else None
        return None if axes is None or len(axes) != 1 else self._squeezed(node.input[0], axes[0])

    def _squeezed(self, name: str, axis: int) -> _Pick | None:
        """The pick that dropping an axis completes: the axis goes back to a Slice or Split, maybe through moves."""
        after: list[tuple[onnx.NodeProto, int]] = []
        cutter = self.producers.get(name)
        while cutter is not None and cutter.op_type in (*_MOVES, *_CODES):
            before = self._axis_before(cutter, axis)
            if before is None:
                return None
            after.append((cutter, before))
            name, axis, cutter = cutter.input[0], before, self.producers.get(cutter.input[0])
        if cutter is None or cutter.op_type not in ("Slice", "Split"):
            return None
        start = self._start(cutter, name, axis)
        return None if start is None else _Pick(cutter.input[0], axis, start, tuple(after))

    def _start(self, cutter: onnx.NodeProto, output: str, axis: int) -> int | None:
        """The only position of the axis that a Slice or Split leaves in `output`, if it leaves all else whole."""
        before, after = self.shapes.get(cutter.input[0]), self.shapes.get(output)
        if before is None or after is None or after != (*before[:axis], 1, *before[axis + 1 :]):
            return None
        if cutter.op_type == "Split":
            parts = list(cutter.output)
            return sum(self.shapes[name][axis] for name in parts[: parts.index(output)])
        starts, axes = self._ints(cutter, 1, "starts"), self._ints(cutter, 3, "axes")
        if starts is None or len(starts) != 1 or axes is None or axes[0] % len(before) != axis:
            return None
        return starts[0] % before[axis]

    def _axis_before(self, mover: onnx.NodeProto, axis: int) -> int | None:
        """The axis of a move's input that became `axis` of its output; None for one it made."""
        if mover.op_type in _CODES:
            return axis if self.shapes.get(mover.input[1]) in ((), (1,)) else None
        if mover.op_type == "Transpose":
            return int(_attribute(mover, "perm", [])[axis]) if _attribute(mover, "perm", []) else None
        changed = self._axes(mover)
        if changed is None or (mover.op_type == "Unsqueeze" and axis in changed):
            return None
        if mover.op_type == "Unsqueeze":
            return axis - sum(c < axis for c in changed)
        return [i for i in range(len(self.shapes[mover.input[0]])) if i not in changed][axis]

    def _packed_axis(self, reshape: onnx.NodeProto, axis: int) -> int | None:
        """The axis of a Reshape's input whose outermost factor became `axis`."""
        before, after = self.shapes.get(reshape.input[0]), self.shapes.get(reshape.output[0])
        values = self._ints(reshape, 1, "shape") if reshape.op_type == "Reshape" else None
        if before is None or after is None or values is None or 0 in values[axis:]:
            return None
        if not 1 < after[axis] <= _MOST_PARTS:
            return None
        ends = [math.prod(before[:i]) for i in range(len(before))]
        outer = math.prod(after[:axis])
        fits = (i for i, end in enumerate(ends) if end == outer and before[i] > after[axis])
        return next((i for i in fits if self._covers(before[i], after[axis:])), None)

    def _covers(self, size: int, after: Shape) -> bool:
        """Whether the first of some axes of an output make up an input axis of this size."""
        products = np.cumprod(after).tolist()
        return size in products[1:]

    def _split(self, reshape: onnx.NodeProto, axis: int, new: int) -> list[onnx.NodeProto]:
        """The Split of a packed axis, made once."""
        name = reshape.output[0]
        if name in self.parts:
            return []
        count = self.shapes[name][new]
        self.parts[name] = [f"{name}/part{k}" for k in range(count)]
        sizes = [self.shapes[reshape.input[0]][axis] // count] * count
        split = helper.make_node("Split", reshape.input[:1], self.parts[name], f"{name}/split", axis=axis)
        self._give(split, 1, "split", sizes, 13)
        return [split]

    def _moved(self, reshape: onnx.NodeProto, output: str, axis: int, position: int) -> list[onnx.NodeProto]:
        """The Reshape of one part: its shape lacks the packed axis."""
        node = helper.make_node("Reshape", [self.parts[reshape.output[0]][position]], [f"{output}/moved0"])
        node.name = f"{reshape.name or 'Reshape'}/{output}"
        values = self._ints(reshape, 1, "shape") or []
        others = [i for i in range(len(values)) if i != axis]
        if reshape.input[1] in self.literal:
            node.input.append(self._literal(f"{output}/shape", [values[i] for i in others]))
            node.attribute.extend(reshape.attribute)
            return [node]
        node.input.append(f"{output}/shape")
        parts = self._glued_without(reshape.input[1], axis)
        if parts:
            return [helper.make_node("Concat", parts, node.input[1:], f"{output}/shape", axis=0), node]
        names = [reshape.input[1], self._literal(f"{output}/kept", others)]
        return [helper.make_node("Gather", names, node.input[1:], f"{output}/shape", axis=0), node]

    def _glued_without(self, shape: str, axis: int) -> list[str]:
        """What a shape list is glued together from but for one element; nothing if that is not one of its parts."""
        glue = self.producers.get(shape)
        if glue is None or glue.op_type != "Concat":
            return []
        ends = np.cumsum([self.shapes[name][0] for name in glue.input]).tolist()
        k = next(k for k, end in enumerate(ends) if axis < end)
        alone = self.shapes[glue.input[k]] == (1,)
        return [name for i, name in enumerate(glue.input) if i != k] if alone else []

    def _without(self, mover: onnx.NodeProto, axis: int, source: str, output: str) -> onnx.NodeProto:
        """A move of a tensor that lacks the axis; `axis` counts in the move's input."""
        node = helper.make_node(mover.op_type, [source], [output], f"{mover.name or mover.op_type}/{output}")
        node.domain = mover.domain
        if mover.op_type in _CODES:
            node.input.extend(mover.input[1:])
            node.attribute.extend(mover.attribute)
            return node
        if mover.op_type == "Transpose":
            perm = [a - (a > axis) for a in _attribute(mover, "perm", []) if a != axis]
            node.attribute.append(helper.make_attribute("perm", perm))
            return node
        changed = self._axes(mover) or []
        if mover.op_type == "Unsqueeze":
            kept = [i for i in range(len(self.shapes[mover.output[0]])) if i not in changed]
            axis = kept[axis]
        self._give(node, 1, "axes", [a - (a > axis) for a in changed], 13)
        return node

    def _give(self, node: onnx.NodeProto, place: int, name: str, values: list[int], since: int) -> None:
        """Integers as an input from opset `since` on, as an attribute before."""
        if self.opset < since:
            node.attribute.append(helper.make_attribute(name, values))
        else:
            node.input.insert(place, self._literal(f"{node.output[0]}/{name}", values))

    def _literal(self, name: str, values: list[int]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def _ints(self, node: onnx.NodeProto, place: int, name: str) -> list[int] | None:
        """A list of integers that newer opsets pass as an input and older ones as an attribute."""
        if len(node.input) > place:
            value = self.values.get(node.input[place])
            return None if value is None else [int(v) for v in value.reshape(-1)]
        found: list[int] | None = _attribute(node, name, None)
        return found

    def _axes(self, node: onnx.NodeProto) -> list[int] | None:
        """The axes of a Squeeze or an Unsqueeze, from the front."""
        axes, larger = self._ints(node, 1, "axes"), node.output if node.op_type == "Unsqueeze" else node.input
        shape = self.shapes.get(larger[0])
        return None if axes is None or shape is None else [axis % len(shape) for axis in axes]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
