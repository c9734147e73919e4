"""Where the same network, written by another exporter or optimizer, does not give the same groups and blocks; and why.

Most are other networks by now: a weight that was one has become two, or a table that was computed has become a weight.
Each was checked in the graphs.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Models by shell pattern, what they went through (`export`, or an optimizer's name), and why they differ.

    `export` compares with the network's first export.
    """

    models: str
    through: tuple[str, ...]
    why: str


_BOTH = ("onnxruntime", "onnxslim")
_UNTIED = "the optimizer gives each use of a shared weight a copy of its own, so that they are no longer tied"
_TABLE = (
    "a table of positions, computed in one graph and stored in the other: stored, its columns are weights of their own;"
    " computed, sine and cosine of one frequency are one unit"
)
_FOLDED = "the optimizer stores the product of a table of positions with its projection, whose inner width is gone"

DIFFERENCES = (
    Difference(
        "h_spatial_transformer__D18",
        ("export",),
        "this exporter writes the product of the transformation with the grid of (x, y, 1), of which parts may be cut;"
        " the other writes AffineGrid, whose matrix must have 2 x 3 elements",
    ),
    Difference(
        "h_torch_transformer_encoder__D18",
        ("export",),
        "copied layers start with equal attention weights, which the TorchScript exporter stores once for both: its"
        " layers are tied, and no block owns its weights",
    ),
    Difference(
        "hf_opt__D18",
        ("export",),
        "the head is the embedding table: one weight behind a Transpose here, a transposed copy in the other",
    ),
    Difference("xcit_nano_12_p16_224__D18", ("export",), _TABLE),
    Difference("edgenext_small__D18", ("export",), _TABLE),
    Difference("xcit_nano_12_p16_224__D18", _BOTH, _FOLDED),
    Difference("convit_tiny__L17", _BOTH, _FOLDED),
    Difference("edgenext_small__D18", _BOTH, _FOLDED),
    Difference("hf_mask2former_like_maskformer_swin__L17", _BOTH, _TABLE),
    Difference("h_siamese_shared__D18", _BOTH, _UNTIED),
    Difference("h_siamese_shared__L17", ("onnxslim",), _UNTIED),
    Difference("h_torch_transformer_encoder__L17", ("onnxslim",), _UNTIED),
    Difference("hf_albert__*", ("onnxslim",), _UNTIED),
    Difference("hf_opt__D18", ("onnxruntime",), _UNTIED),
)


def known_difference(model: str, through: str) -> Difference | None:
    """The row of the table for a model that went through an exporter or optimizer."""
    rows = (row for row in DIFFERENCES if through in row.through and fnmatch.fnmatchcase(model, row.models))
    return next(rows, None)
