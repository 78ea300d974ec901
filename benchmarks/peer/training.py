"""Training against the clock: what every network that is not nearfield's is trained by.

AdamW, half a cosine over the CPU seconds given, clipped gradients; the weights kept are those, of a moving average over
the last fifth or so of the steps, with the lowest held-out loss at any check.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKS = 20
"""Checks of the held-out loss in a training, at most."""
CHECK_COST = 6.0
"""Time between two checks, at least, in units of what a check takes."""
POWER = 5.0
"""The average of k steps moves by POWER / k: it reaches over a fifth of them (arXiv 2312.02696, (2))."""
CLIP = 5.0


def train(
    module: nn.Module,
    loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor],
    held_out: Callable[[nn.Module], float],
    *,
    n_samples: int,
    batch_size: int,
    seconds: float,
    rate: float,
    seed: int,
) -> float:
    """Train in place, from the present weights to the best averaged ones; return their held-out loss.

    Parameters
    ----------
    module
    loss
        Of the module, the numbers of a batch's samples and a generator.
    held_out
        Loss of a module on what is not trained on.
    n_samples, batch_size
    seconds
        CPU seconds, checks included. At least one step is taken.
    rate
        Learning rate at the start.
    seed
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)
    average = copy.deepcopy(module).requires_grad_(False).eval()
    best, best_loss = copy.deepcopy(average.state_dict()), math.inf
    start = checked = time.process_time()
    cost, step = 0.0, 0
    order = torch.zeros(0, dtype=torch.int64)
    module.train()
    while (spent := time.process_time() - start) < seconds - cost or step == 0:
        if len(order) < min(batch_size, n_samples):
            order = torch.randperm(n_samples, generator=generator)
        batch, order = order[:batch_size], order[batch_size:]
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * rate * (1 + math.cos(math.pi * min(spent / max(seconds, 1e-9), 1)))
        optimizer.zero_grad()
        value = loss(module, batch, generator)
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        step += 1
        share = 1 - (1 - 1 / step) ** POWER
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), module.parameters(), strict=True):
                mean.lerp_(weight, share)
            for mean, buffer in zip(average.buffers(), module.buffers(), strict=True):
                mean.copy_(buffer)
        now = time.process_time()
        if now - checked > max(seconds / CHECKS, CHECK_COST * cost) or now - start >= seconds - cost:
            found = held_out(average)
            checked = time.process_time()
            cost = checked - now
            if found < best_loss:
                best, best_loss = copy.deepcopy(average.state_dict()), found
    module.load_state_dict(best)
    module.requires_grad_(False).eval()
    return best_loss
