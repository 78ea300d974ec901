"""AdamW, and with no decay of the weights Adam, without the start of torch's compiler."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, final

import torch
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdamW", "half_cosine"]


def half_cosine(start: float, step: int, steps: int) -> float:
    """Learning rate after `step` steps: it falls from `start` along half a cosine to zero after `steps`.

    Examples
    --------
    >>> [round(half_cosine(0.002, step, 100), 6) for step in (0, 50, 100)]
    [0.002, 0.001, 0.0]
    """
    return 0.5 * start * (1 + math.cos(math.pi * step / steps))


@final
class AdamW:
    """AdamW with its usual constants: Loshchilov and Hutter, "Decoupled weight decay regularization" (ICLR 2019).

    The arithmetic is torch's own, all tensors in one call; its class ``torch.optim.AdamW`` imports torch's compiler.

    Parameters
    ----------
    parameters : iterable of Parameter
        Changed in place. Those without entries are left out; all others must have a gradient at each step.
    weight_decay : float
        In units of the learning rate.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = AdamW([weight])
    >>> weight.square().sum().backward()
    >>> optimizer.step(rate=0.1)
    >>> round(weight.item(), 6)
    0.9
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], weight_decay: float = 0.0) -> None:
        self.weight_decay = weight_decay
        self._parameters = [parameter for parameter in parameters if parameter.numel()]
        self._first = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._second = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros((), device=parameter.device) for parameter in self._parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Change the parameters along their gradients, by a learning rate."""
        adamw(
            list(self._parameters),
            [parameter.grad for parameter in self._parameters if parameter.grad is not None],
            self._first,
            self._second,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """Return moments and counts by name; what is written into them is what the next step goes on from."""
        kinds = {"first": self._first, "second": self._second, "steps": self._steps}
        return {f"{kind}.{number}": value for kind, values in kinds.items() for number, value in enumerate(values)}
