"""Linear, symmetric maps outside torch, with their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["symmetric_map"]


def symmetric_map(apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a linear, symmetric map to the rows of `x`; it is its own derivative, transposed or not.

    Examples
    --------
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> symmetric_map(lambda y: torch.from_numpy(3 * y.detach().numpy()), x).sum().backward()
    >>> x.grad.tolist()
    [[3.0, 3.0]]
    """
    out: Tensor = _SymmetricMap.apply(x, apply)
    return out


class _SymmetricMap(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        return apply(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.map = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return symmetric_map(ctx.map, gradients[0]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return symmetric_map(ctx.map, tangents[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, apply: Callable[[Tensor], Tensor]) -> Any:  # noqa: ARG004
        x = x.movedim(in_dims[0], 0)
        return symmetric_map(apply, x.flatten(0, 1)).unflatten(0, x.shape[:2]), 0
