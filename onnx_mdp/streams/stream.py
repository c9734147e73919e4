"""What is known of a stream: how its tensors and weights follow a rotation of it.

Every tensor that carries the axis is, up to the rotation, a stream vector u that is scaled and shifted: s u + t. A
residual stream itself has neither; a normalization's result has its scale and bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx_mdp.axes.terms import Factor
from onnx_mdp.graph.network import Node
from onnx_mdp.graph.shapes import Array
from onnx_mdp.groups.couple import Freeze

CENTERING = "LayerNormalization"
PRODUCTS = ("Conv", "Gemm", "MatMul")
Member = tuple[str, int]


@dataclass(frozen=True)
class Side:
    """What a tensor is beside the stream vector: multiplied with `scale`, then shifted by `shift`; None for neither."""

    scale: Array | None = None
    shift: Array | None = None

    @property
    def plain(self) -> bool:
        """Whether it is the stream vector itself."""
        return self.scale is None and self.shift is None


PLAIN = Side()


@dataclass(frozen=True)
class Before:
    """What is done to a weight before it is rotated: it is multiplied, and what writes to the stream loses its mean."""

    scale: Array | None = None
    writes: bool = True

    def agrees(self, other: Before) -> bool:
        """Whether one weight can be both."""
        return self.writes == other.writes and self.scale is None and other.scale is None


@dataclass(frozen=True, eq=False)
class Stream:
    """A stream that can be rotated, in a network in normal form.

    Attributes:
        factor: the axis.
        members: (initializer, axis) pairs to rotate, with what to do before.
        norms: the normalizations over it, in graph order.
        centerings: nodes that subtract the mean of what they read; the stream needs none then.
        linear: whether there is nothing over it but products: any change of basis will do, not only rotations.
        centered: whether the stream's own mean does not matter, as all that reads it subtracts it.
        projected: whether its normalizations subtract a mean that matters elsewhere.
        shifts: product -> the shift of what it reads, to be added to its result.
        folded: nodes that matrices absorb -> the data they read.
        neutral: those of them that stay, with a scale of ones: as the last step of a normalization that is spelled out.
        spelled: tensors that have to be had in the basis they were in, with their sides; by a matrix of their own.
        inside: those of them that write to the stream.
        reads: weights of products that read it -> the tensor that they read, and on which of its axes it lies.
        added: normalizations -> what is added to the stream vector they make, as something shifts its positions.
        pairs: products of two tensors of it that are summed over it, as of queries with keys.
        heads: an axis beside it in all of its weights: for each position on that, the basis may be another.
        inverse: of a linear one, positions on members that read it, or are behind the right operands of `pairs`: where
            others change basis by M, these do by the inverse transpose of M. Without any, M has to be a rotation.
    """

    factor: Factor
    members: dict[Member, Before] = field(default_factory=dict)
    norms: list[Node] = field(default_factory=list)
    centerings: list[Node] = field(default_factory=list)
    linear: bool = False
    centered: bool = False
    projected: bool = False
    shifts: dict[int, Array] = field(default_factory=dict)
    folded: dict[int, str] = field(default_factory=dict)
    neutral: set[int] = field(default_factory=set)
    spelled: dict[str, Side] = field(default_factory=dict)
    inside: frozenset[str] = frozenset()
    reads: dict[str, tuple[str, int]] = field(default_factory=dict)
    added: dict[int, Array] = field(default_factory=dict)
    pairs: list[Node] = field(default_factory=list)
    heads: Factor | None = None
    inverse: Mapping[Member, Array] = field(default_factory=dict)

    @property
    def turns(self) -> bool:
        """Whether products write it and products read it, so that a change of basis is of use."""
        return bool(self.reads or self.pairs) and any(before.writes for before in self.members.values())

    @property
    def within_heads(self) -> bool:
        """Whether it is a width inside of the heads of one attention."""
        return bool(self.pairs) or self.heads is not None

    @property
    def width(self) -> int:
        """Number of its units."""
        return self.factor.size


@dataclass(frozen=True)
class Fixed:
    """A normalized stream that cannot be rotated, and why."""

    factor: Factor
    freeze: Freeze
