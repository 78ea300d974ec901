"""What training asks of the processor: memory that stays its own from step to step, and bfloat16."""

from __future__ import annotations

from typing import Literal

import torch

from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork

__all__ = ["begins_in_bfloat16", "keep_memory", "multiplies_bfloat16"]

BFLOAT16_VERTICES = 8192
"""Vertices in a batch from which on bfloat16 is worth it. Gain in time of a step of a hybrid, radius 4, on a processor
with AMX: 1.1 at 4096 vertices, 1.25 at 8192, 1.35 at 16384, 1.75 at 65536."""

LARGEST_BLOCK = 31 * 2**20
"""Bytes; the GNU allocator takes no notice of blocks above 32 MB."""


def keep_memory() -> None:
    """Have the process keep what a step frees, some 60 MB, for the next step.

    The GNU allocator gives freed memory back to the system, unless a block as large as this one has been freed before.
    The system then hands out each page anew, which takes up to a third of the time of a step on some ten thousand
    vertices.
    """
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8)


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16; without them they are slower than others."""
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def begins_in_bfloat16(network: Network, wish: Literal["auto"] | bool, vertices: int) -> bool:
    """Whether training starts in bfloat16: stencil networks in single precision only, on processors.

    Parameters
    ----------
    network : Network
    wish : bool or "auto"
        ``"auto"`` is where it is faster: with the instructions for it, and `BFLOAT16_VERTICES` in a batch or more.
    vertices : int
        In a batch.
    """
    weight = next(network.parameters())
    able = isinstance(network, StencilNetwork) and weight.dtype == torch.float32 and weight.device.type == "cpu"
    return able and (multiplies_bfloat16() and vertices >= BFLOAT16_VERTICES if wish == "auto" else wish)
