"""Writing: to a temporary name beside the target, then renamed, so that a kill or a full disk leaves no half file.

A model with external data is two files, and two renames can be cut apart. The data therefore takes a name that no
model refers to yet; the rename of the model is what makes the pair the new one, and only then does the old data go.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from onnx_mdp.errors import OutputError
from onnx_mdp.graph.external import with_data_at, write_data
from onnx_mdp.graph.temporary import removed_at_end
from onnx_mdp.graph.weights import PROTOBUF_LIMIT, model_bytes

_T = TypeVar("_T")


def save_model(model: onnx.ModelProto, path: Path, *, external: bool) -> None:
    """Write a model; with `external`, or beyond protobuf's limit, its weights go to `<path>.data`.

    Where a file of that name is there already, the data's name has a part of its hash in it: `<path>.1f2e3d4c.data`.
    Data that belonged to a model which is overwritten is removed.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    mapped = any(uses_external_data(tensor) for tensor in model.graph.initializer)
    if external or mapped or model_bytes(model) > PROTOBUF_LIMIT:
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
    _write(path, lambda file: file.write(data), lambda _: path)


def _write(path: Path, fill: Callable[[IO[bytes]], _T], name: Callable[[Path], Path]) -> tuple[_T, Path]:
    """Fill a temporary file and rename it to the name it is then given; messages say `path`."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            with removed_at_end(partial(temporary.unlink, missing_ok=True)):
                result = fill(file)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        target = name(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); choose another place with --output"
        ) from error
    return result, target


def check_writable(path: Path) -> None:
    """Fail early where a file could not be written in the end.

    Raises:
        OutputError: its folder does not exist or is read-only, or the path is a folder.
    """
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it or choose another")
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file, and would be replaced by one"
        raise OutputError(f"{path}: is {what}; give a file name")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".onnx-mdp-"):
            pass
    except OSError as error:
        raise OutputError(
            f"{path}: the folder cannot be written to ({error.strerror}); choose another place"
        ) from error


def _save_external(model: onnx.ModelProto, path: Path) -> None:
    old, usual = _own_data(path), path.with_name(f"{path.name}.data")

    def free_name(written: Path) -> Path:
        return path.with_name(f"{path.name}.{_digest(written)}.data") if usual.exists() else usual

    offsets, data = _write(usual, lambda file: write_data(model, file), free_name)
    write_bytes(path, with_data_at(model, data.name, offsets).SerializeToString())
    for file in old - {data}:
        file.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def _own_data(path: Path) -> set[Path]:
    """The data files of the model at a path that are named after it."""
    if not path.is_file():
        return set()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        return set()  # no model, which is as good to overwrite
    tensors = filter(uses_external_data, model.graph.initializer)
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return {path.with_name(name) for name in names if name.startswith(f"{path.name}.") and "/" not in name}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
