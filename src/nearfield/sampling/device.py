"""Choice of the device that states are on."""

from __future__ import annotations

import torch

__all__ = ["usable_device"]


def usable_device(device: str | torch.device) -> torch.device:
    """Return the device to draw on; ``"auto"`` is a GPU where there is one.

    Raises
    ------
    ValueError
        If torch cannot use it here.
    """
    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.empty(0, device=device).device
    except Exception as error:  # torch raises many kinds
        raise ValueError(
            f"device must be one that torch can use here, got {str(device)!r}; set_params(device='cpu')"
        ) from error
    if found.type == "meta":
        raise ValueError("device must have memory to draw in, got 'meta'; set_params(device='cpu')")
    return found
