r"""A law in two scales: block means first, then the details given them.

A network of a few hops draws stones, fronts or cells of twice its reach from block means of two cells along each axis;
given these, what is left is decided nearby. With z the block means of the field x, and w its details
(:class:`nearfield.graph.haar.Haar`),

.. math:: p(x) \propto p(z)\,p(w \mid z),

and both factors are laws of local scores on the lattice of the blocks. Cascades of diffusion models are those of Ho et
al. (JMLR 2022); local laws of wavelet coefficients given coarser ones, of Kadkhodaie et al. (ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from nearfield.conditional import Conditional, UnsupportedError
from nearfield.distribution import Distribution, GaussianModel
from nearfield.graph import DependencyGraph
from nearfield.graph.haar import Haar
from nearfield.module import as_tensor
from nearfield.noise import Stream
from nearfield.sampling.base import BYTES, MEMORY, Sampler
from nearfield.sampling.device import usable_device
from nearfield.score.evidence import Evidence
from nearfield.score.hybrid import ConditionalScore

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["CascadeModel"]


@final
class CascadeModel(Distribution):
    """Law of fields whose block means are drawn first, then the details given them.

    It is drawn from and extended; density and conditional laws need a score of the whole field, which it has not.

    Parameters
    ----------
    coarse : Distribution
        Of the block means, each channel over its scale.
    score : ConditionalScore
        Of the details over their scales, given such block means.
    scale : ndarray, shape (part,)
        Scales of the means and details of a block, in the order of `Haar.split`.
    graph : DependencyGraph
        Lattice of the field.
    largest_eigenvalue : float
        As in `Distribution`; of the means or the details, whichever is larger.
    """

    score: ConditionalScore
    scale: Tensor

    def __init__(
        self,
        coarse: Distribution,
        score: ConditionalScore,
        scale: Float[np.ndarray, " part"] | Float[Tensor, " part"],
        graph: DependencyGraph,
        largest_eigenvalue: float = 1.0,
    ) -> None:
        super().__init__()
        self.coarse, self.score, self.haar = coarse, score, Haar.of(graph)
        self.largest_eigenvalue = float(largest_eigenvalue)
        self.register_buffer("scale", as_tensor(scale))

    @classmethod
    def graph_of_parts(cls, settings: Mapping[str, Any], graph: Any) -> DependencyGraph:  # noqa: ARG003
        """Lattice of the blocks, where both laws live."""
        assert isinstance(graph, DependencyGraph)
        return Haar.of(graph).graph

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        stream: Stream = Stream.EXACT,
        sampler: Sampler | None = None,
        device: torch.device | str = "auto",
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw block means, then details; a given sampler draws both, and reports its progress twice."""
        means = self.coarse.sample(
            n_samples,
            seed=seed,
            stream=stream,
            sampler=sampler,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
        sampler = sampler or self.default_sampler()
        size = batch_size or max(1, MEMORY // (BYTES * self.score.numbers_per_sample))
        details = [
            sampler.sample(
                self.score.at(torch.from_numpy(given)),
                len(given),
                seed=_seed_of_details(seed),
                first_member=start,
                batch_size=len(given),
                dtype=torch.float64,
                device=usable_device(device),
                progress=progress,
            ).cpu()
            for start in range(0, n_samples, size)
            for given in [means[start : start + size]]
        ]
        parts = np.concatenate([means, torch.cat(details).numpy()], axis=2)
        return self.haar.join(parts * self.scale.cpu().numpy())

    @property
    def gaussian(self) -> GaussianModel:
        """Refused."""
        return _refuse()

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:  # noqa: ARG002
        """Refused."""
        return _refuse()

    def condition(self, evidence: Evidence) -> Conditional:  # noqa: ARG002
        """Refused."""
        return _refuse()

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> CascadeModel:
        """Return the same law on a larger lattice of even lengths."""
        blocks = Haar.of(graph).graph, Haar.of(onto).graph
        return CascadeModel(
            self.coarse.extended(*blocks), self.score.extended(*blocks), self.scale, onto, self.largest_eigenvalue
        )


def _seed_of_details(seed: int) -> int:
    """Seed of noise that is independent of that of the means."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0])


def _refuse() -> NoReturn:
    raise UnsupportedError(
        "a law of two scales is drawn from and extended only; to condition, impute or score samples fit Hybrid() with "
        "scales=1"
    )
