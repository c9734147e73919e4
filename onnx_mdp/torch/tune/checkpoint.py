"""How far a training is, in a file: written whole or not at all, read back only for the same training."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from onnx_mdp.errors import InputError
from onnx_mdp.graph.save import write_bytes


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint in the place of the last one.

    Raises:
        OutputError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def read_checkpoint(path: Path, run: str) -> dict[str, Any]:
    """What was written, of the training that `run` identifies.

    Raises:
        InputError: it is no checkpoint, or that of another model, other inputs or other options.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"--resume: {path} is no checkpoint; remove it, or name another --checkpoint") from error
    if not isinstance(content, dict) or content.get("run") != run:
        raise InputError(
            f"--resume: {path} is of another training: the model, --dense, the inputs and all options but --epochs and "
            "--minutes must be the same; remove it, or name another --checkpoint"
        )
    return content
