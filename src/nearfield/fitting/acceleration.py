"""Training made fast: memory kept from step to step, bfloat16, compiled steps, and the device."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nearfield.score.base import Score
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork

__all__ = ["begins_in_bfloat16", "compiled", "kept_memory", "multiplies_bfloat16", "placed", "require_compiler"]

BFLOAT16_VERTICES = 8192
"""Vertices in a batch from which on bfloat16 is clearly faster."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of the GNU allocator's parameters, from its header malloc.h."""
LARGEST_MAPPED = 32 * 2**20
"""Bytes; larger blocks are always given back."""
KEPT = 2**30
"""Bytes that are kept free for the next step, at most."""
COMPILERS = {"Darwin": "clang++", "Windows": "cl"}
"""Programs that compile C++ for torch unless CXX is set; elsewhere g++."""
REALIZED: dict[str, str | int | bool | Callable[..., object]] = {
    "realize_reads_threshold": 2,
    "realize_acc_reads_threshold": 2,
}
"""Sums that torch's compiler would compute anew wherever they are read are stored."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """Have the process keep what a step frees for the next step, with the GNU allocator; give it back at the end.

    Otherwise that allocator returns freed memory to the system, which hands out each page anew at the next step.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_THRESHOLD, LARGEST_MAPPED)
    library.mallopt(TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        # Its parameters cannot be read: these are the ones it sets itself to when large blocks come and go.
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST_MAPPED)
        library.malloc_trim(0)


@contextmanager
def placed(score: Score, device: str | torch.device) -> Iterator[None]:
    """Move a score to a device, and back to the processor at the end."""
    score.to(device)
    try:
        yield
    finally:
        score.to("cpu")


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16; without them they are slower than others."""
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def begins_in_bfloat16(network: Network, wish: Literal["auto"] | bool, vertices: int) -> bool:
    """Whether training starts in bfloat16: stencil networks in single precision on processors; ``"auto"`` if faster."""
    weight = next(network.parameters())
    able = isinstance(network, StencilNetwork) and weight.dtype == torch.float32 and weight.device.type == "cpu"
    return able and (multiplies_bfloat16() and vertices >= BFLOAT16_VERTICES if wish == "auto" else wish)


def require_compiler() -> None:
    """Refuse to compile where there is no C++ compiler, or the headers of Python that torch compiles against."""
    name = os.environ.get("CXX") or COMPILERS.get(platform.system(), "g++")
    if shutil.which(name) is None:
        raise ValueError(
            f"compiled must be False where there is no C++ compiler, got True and no {name!r}; install it, or set the "
            "environment variable CXX to another"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise ValueError(
            f"compiled must be False where there are no headers of Python, got True and no {header}; install the "
            "development files of this Python"
        )


def compiled(network: Network) -> Callable[..., Tensor]:
    """Return the forward pass of a stencil network through torch's compiler; of others as it is.

    Weights stay those of the network. The compiler forgets its earlier work in this process: of networks of one class
    it keeps eight at most, and would pass over the ninth.
    """
    if not isinstance(network, StencilNetwork):
        return network
    require_compiler()
    torch.compiler.reset()
    forward: Callable[..., Tensor] = torch.compile(network.forward, dynamic=False, options=REALIZED)
    return forward
