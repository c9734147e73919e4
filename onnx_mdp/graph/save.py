"""Writing: to a temporary name beside the target, then renamed, so that a kill or a full disk leaves no half file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors

from onnx_mdp.errors import OutputError
from onnx_mdp.graph.load import PROTOBUF_LIMIT


def save_model(model: onnx.ModelProto, path: Path, *, external: bool) -> None:
    """Write a model; with `external`, or beyond protobuf's limit, its weights go to `<path>.data`.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    if external or model.ByteSize() > PROTOBUF_LIMIT:
        _save_external(model, path)
    else:
        write_bytes(path, model.SerializeToString())


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); choose another place with --output"
        ) from error


def check_writable(path: Path) -> None:
    """Fail early where a file could not be written in the end.

    Raises:
        OutputError: its folder does not exist or is read-only, or the path is a folder.
    """
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it or choose another")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give a file name")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".onnx-mdp-"):
            pass
    except OSError as error:
        raise OutputError(
            f"{path}: the folder cannot be written to ({error.strerror}); choose another place"
        ) from error


def _save_external(model: onnx.ModelProto, path: Path) -> None:
    data = path.with_name(f"{path.name}.data")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            convert_model_to_external_data(copy, location=data.name, size_threshold=1024)
            copy = write_external_data_tensors(copy, folder)
            written = Path(folder) / data.name
            if written.exists():
                written.chmod(0o666 & ~_umask())
                os.replace(written, data)
    except OSError as error:
        raise OutputError(
            f"{data}: cannot be written ({error.strerror}); choose another place with --output"
        ) from error
    write_bytes(path, copy.SerializeToString())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
