"""What training asks of the processor: memory that stays its own from step to step."""

from __future__ import annotations

import torch

__all__ = ["keep_memory"]

LARGEST_BLOCK = 31 * 2**20
"""Bytes; the GNU allocator takes no notice of blocks above 32 MB."""


def keep_memory() -> None:
    """Have the process keep what a step frees, some 60 MB, for the next step.

    The GNU allocator gives freed memory back to the system, unless a block as large as this one has been freed before.
    The system then hands out each page anew, which takes up to a third of the time of a step on some ten thousand
    vertices.
    """
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8)
