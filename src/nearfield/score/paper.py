r"""The paper's neural local score: one small ReLU network of the window and the time, the same at every vertex.

Section 4.2 of arXiv 2505.04417. The network predicts the noise :math:`\xi` of :math:`x_t = a x_0 + s \xi` at the centre
of a window, or the score there, and

.. math:: D = \frac{x - s\,\hat\xi}{a}, \qquad \mathrm{score} = -\frac{\hat\xi}{s}.

This tends to the state as t tends to 0, whatever the network says. Where t is large it divides by a small :math:`a`:
other scores of networks have D without such a division, here it is left as in the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, final

import torch

from nearfield.score.base import Score
from nearfield.score.hybrid import levels, whole
from nearfield.score.vertex import VertexNetworks

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["PaperScore", "Predicted"]

Predicted = Literal["noise", "score"]


@final
class PaperScore(Score):
    """Score of a network that reads the state and the OU time, and answers with the noise or the score.

    Parameters
    ----------
    network : VertexNetworks
        With ``n_shown`` 0. It is given the OU time where other scores give it the log of noise over signal.
    predicts : {"noise", "score"}
        What its answer is.

    Raises
    ------
    ValueError
        If the network asks to be shown something or is that of a block of vertices, or `predicts` is neither.

    Examples
    --------
    A network that answers 0 predicts no noise:

    >>> from nearfield.graph import DependencyGraph
    >>> score = PaperScore(VertexNetworks(DependencyGraph.chain(3), radius=1, shared=True, padding="reflect"))
    >>> score.denoise(torch.ones(1, 3, 1), 0.5).flatten() * torch.exp(torch.tensor(-0.5))
    tensor([1., 1., 1.], grad_fn=<MulBackward0>)
    """

    def __init__(self, network: VertexNetworks, predicts: Predicted = "noise") -> None:
        if network.n_shown:
            raise ValueError(f"network must have n_shown 0, got {network.n_shown}; a HybridScore shows it something")
        if predicts not in ("noise", "score"):
            raise ValueError(f'predicts must be "noise" or "score", got {predicts!r}; use "noise"')
        self.network, self.predicts = whole(network), predicts
        self.n_vertices, self.n_channels, self.radius = len(network.graph), network.n_channels, network.radius

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return D; shapes and times as in `Score.denoise`."""
        a, s, _ = levels(x, t)
        kind = next(self.network.parameters()).dtype
        times = torch.as_tensor(t, dtype=kind, device=x.device).reshape(-1).expand(len(x))
        answer = self.network(x.to(kind), None, times).to(x)
        return (x - s * answer if self.predicts == "noise" else x + s**2 * answer) / a

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return configuration and arrays from which `from_state` makes an equal score."""
        network, arrays = self.network.state()
        return {"network": network, "predicts": self.predicts}, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> PaperScore:
        """Rebuild from `state`; weights ask for no gradients."""
        return cls(VertexNetworks.from_state(config["network"], arrays), config["predicts"])
