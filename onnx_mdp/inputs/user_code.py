"""Functions of the user, named `module:function`: found from the working directory, errors told with their line."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

from onnx_mdp.errors import MdpError

_OURS = str(Path(__file__).parent.parent)


def is_reference(text: str) -> bool:
    """Whether a text has the form `module:function`."""
    return re.fullmatch(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*", text) is not None


@contextmanager
def user_code(place: str, error: type[MdpError]) -> Iterator[None]:
    """Within the context, modules are found from the working directory too, as with Python's own `-m`.

    Args:
        place: what messages begin with, such as `--inputs module:function`.
        error: what any error of the user's code becomes, with the line that it comes from.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    except MdpError:
        raise
    except (Exception, SystemExit) as found:
        raise error(f"{place}: {type(found).__name__}: {found}{_line(found)}") from found
    finally:
        if here in sys.path:
            sys.path.remove(here)


def imported(option: str, reference: str, purpose: str, error: type[MdpError]) -> Callable[..., Any]:
    """The function of a reference; to be called within `user_code`.

    Args:
        option: what messages begin with, such as `--inputs`.
        reference: `module:function`.
        purpose: what the function is to do, such as `yields feeds`.
        error: what is raised where there is no such function.
    """
    module, _, name = reference.partition(":")
    try:
        found = reduce(getattr, name.split("."), importlib.import_module(module))
    except ModuleNotFoundError as missing:
        if missing.name and (module == missing.name or module.startswith(f"{missing.name}.")):
            raise error(f"{option} {reference}: no module {missing.name!r} here or installed") from missing
        raise
    except AttributeError as missing:
        if traceback.extract_tb(missing.__traceback__)[-1].filename != __file__:
            raise
        raise error(f"{option} {reference}: module {module!r} has no {name!r}") from missing
    if not callable(found):
        raise error(f"{option} {reference}: is a {type(found).__name__}; name a function that {purpose}")
    checked: Callable[..., Any] = found
    return checked


def _line(error: BaseException) -> str:
    """The innermost line that is the user's own, or else that of a package."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [(frame.filename, frame.lineno) for frame in frames if not frame.filename.startswith(_OURS)]
    outside = [line for line in lines if "importlib" not in line[0]]
    own = [line for line in outside if "site-packages" not in line[0]] or outside
    return f", at {own[-1][0]}:{own[-1][1]}" if own else ""
