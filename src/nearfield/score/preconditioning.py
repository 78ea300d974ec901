r"""The preconditioned denoiser of a network, as Karras et al. (NeurIPS 2022) have it.

.. math:: D(x, t) = c_{skip}\,x + c_{out}\,F(c_{in}\,x,\ \mathrm{context},\ c_{noise}).

The state of the Ornstein-Uhlenbeck process has unit variance at every time when the data have,
:math:`a^2 + s^2 = 1`, so that :math:`c_{in} = 1`; :math:`c_{noise} = \ln\sigma` with
:math:`\sigma = s/a`; and the F that denoises perfectly with :math:`c_{skip} = a,\ c_{out} = s` is
:math:`(x_0 - a x)/s = s\,x_0 - a\,\xi`, of unit scale too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nearfield.process import noise_scale, per_sample, signal_scale

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.score.network import Network

__all__ = ["Preconditioning", "noise_level", "scales"]


class Preconditioning(NamedTuple):
    r"""All of :math:`D = a x + s\,(\mathrm{skip} + c_{out} F(x, \mathrm{context}, c_{noise}))` but F.

    Skip and c_out are in units of s, in which the error of D is that of F: well conditioned at every noise level.

    Attributes
    ----------
    context : Tensor or None
        As in `Network.forward`.
    skip : Tensor or float
        Part of D beside a x that does not depend on the network, of the shape of the state.
    c_out : Tensor or float
        Factor of F, of the shape of the state or the same for all samples.
    """

    context: Tensor | None = None
    skip: Tensor | float = 0.0
    c_out: Tensor | float = 1.0

    def denoise(self, network: Network, x: Tensor, t: float | Tensor) -> Tensor:
        """Return D, with F computed in the precision of the weights."""
        a, s, log_sigma = scales(x, t)
        kind = next(network.parameters()).dtype
        context = None if self.context is None else self.context.to(kind)
        f = network(x.to(kind), context, noise_level(log_sigma).to(kind)).to(x)
        denoised: Tensor = a * x + s * (self.skip + self.c_out * f)
        return denoised


def scales(x: Float[Tensor, "sample ..."], t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales of signal and noise, ready to multiply `x`, and the log of noise over signal of each sample or entry."""
    times = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    times = times if times.ndim == 3 else times.reshape(-1)
    a, s = (per_sample(scale(times)).to(x.dtype) for scale in (signal_scale, noise_scale))
    log_sigma = torch.log(noise_scale(times)) + times
    return a, s, log_sigma.expand(len(x)) if log_sigma.shape == (1,) else log_sigma


def noise_level(log_sigma: Tensor) -> Float[Tensor, " sample"]:
    """Log of the noise-to-signal ratio of each sample: of a noise map, the largest that is finite."""
    if log_sigma.ndim == 1:
        return log_sigma
    return torch.where(log_sigma == torch.inf, -torch.inf, log_sigma).amax(dim=(1, 2))
