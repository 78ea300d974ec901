"""A guard of tests: operations on one device alone."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OneDevice(TorchDispatchMode):
    """Fails where an operation reads or makes a tensor on the processor, but for the times that were given."""

    def __init__(self, given: object = None) -> None:
        super().__init__()
        self.given = given

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, out)):
            if isinstance(each, torch.Tensor) and each.device.type == "cpu" and each is not self.given:
                raise AssertionError(f"{func} has a tensor on the processor")
        return out
