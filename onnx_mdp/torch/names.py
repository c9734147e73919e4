"""Which key of a `state_dict` an initializer has: its own name, wherever PyTorch admits that.

PyTorch reads dots as steps from module to module, so `layer.0.weight` becomes a parameter `weight` of a module `0` in
a module `layer`, whose key is `layer.0.weight` again. It admits no empty step, none that is an attribute of every
module (`half`), and no module that is a parameter as well (`a` beside `a.b`). Where a name breaks that, and for `%`,
the character in the way is written as in a URL: `%2E` for a dot. `urllib.parse.unquote` of a key is always the name.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import unquote

import torch

_OWN = {"inputs", "keys", "outputs"}  # attributes of `OnnxModule`
_TAKEN = {*dir(torch.nn.Module()), *_OWN}


def state_keys(names: Collection[str]) -> dict[str, str]:
    """The key of each initializer among all of these."""
    every = frozenset(names)
    return {name: _key(name, every) for name in names}


def initializer_name(key: str) -> str:
    """The initializer that a key of a `state_dict` stands for."""
    return unquote(key)


def _key(name: str, names: frozenset[str]) -> str:
    steps = name.replace("%", "%25").split(".")
    below_another = any(name[:i] in names for i, letter in enumerate(name) if letter == ".")
    if "" in steps or below_another:
        steps = ["%2E".join(steps)]
    return ".".join(f"%{ord(step[0]):02X}{step[1:]}" if step in _TAKEN else step for step in steps)
