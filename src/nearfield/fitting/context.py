"""What the network of a hybrid is shown: windows of a Gaussian, or the whole field where its denoiser is better.

The whole field is a scale mixture where the data clearly ask for one (:mod:`nearfield.fitting.scale_mixture`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from nearfield.fitting.closed_form import build_field, field_spectrum, fit_windowed, torus_spectrum
from nearfield.fitting.coarse import Scale, corrected
from nearfield.fitting.matching import held_out
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import select_radius_by_time
from nearfield.fitting.scale_mixture import choose_mixture
from nearfield.graph import DependencyGraph
from nearfield.samples import FEWEST_TO_CHOOSE, Samples
from nearfield.score.base import ContextScore
from nearfield.score.context import LARGEST_BASIS, FieldContext
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import WindowedGaussianScore

__all__ = ["Context", "Locality", "choose_context", "context_gaussian"]

CHAIN_RADIUS = 32
"""Hops of the Gaussian on chains of one law, at most."""
CHAIN_ENTRIES = 130
"""Entries of its windows, at most."""
TORUS_ENTRIES = 320
"""Entries of the windows on lattices without ends, at most: 12 hops of 2 axes."""
TORUS_SAMPLES = 50
"""Samples from which on these windows are wide."""
SHORT_AXIS = 8
"""Longest axis around which windows may meet themselves: those of a network do so anyway."""

CLEARLY = 0.01
"""Share by which the denoising loss of a context that reads more than windows must be lower than theirs."""


class Locality(NamedTuple):
    """Hops, at most 64, pooling and correction at larger scales of the Gaussian field of the data."""

    hops: int
    pooling: Pooling
    correction: Scale | None = None

    def field(self, samples: Samples) -> GaussianField:
        """Fit the field to standardised samples."""
        return corrected(build_field(samples, self.hops, self.pooling).field, samples, self.correction)


class Context(NamedTuple):
    """The context of a network, and why it is this one."""

    score: ContextScore
    reason: str


def choose_context(
    used: Samples,
    unseen: Samples,
    locality: Locality,
    times: Sequence[float],
    *,
    radius: int | None = None,
    bounded: bool = False,
    seed: int = 0,
) -> Context:
    """Fit windows, the whole field and where it is asked for a scale mixture to the samples used; choose by the others.

    The windows stay unless the denoising loss of the whole, mean over the times, is lower by a hundredth at least: the
    network has its own way to whatever is near. They also stay if they are given a radius or asked to be ``bounded``,
    if samples are too few to choose by, and where the field has so many variables that its denoiser would cost more
    than the network.
    """
    windows = context_gaussian(used, locality.hops, locality.pooling, radius=radius, seed=seed)
    reads = f"It is shown what a Gaussian makes of windows of {windows.radius} hops"
    if bounded or radius is not None or len(used) < FEWEST_TO_CHOOSE:
        return Context(windows, f"{reads}.")
    if used.n_vertices * used.n_channels > LARGEST_BASIS:
        return Context(windows, f"{reads}: the whole field is too dear beyond {LARGEST_BASIS} variables.")
    field = FieldContext(locality.field(used))
    mixture, _ = choose_mixture(used, field.field, one_law=locality.pooling.one_law, seed=seed)
    wholes: dict[str, ContextScore] = {"Gaussian field": field}
    if mixture is not None:
        wholes["scale mixture of Gaussian fields"] = mixture
    clean, present = torch.from_numpy(unseen.values), unseen.present
    before = held_out(windows, clean, times, seed=seed, present=present).mean()
    losses = {n: held_out(score, clean, times, seed=seed, present=present).mean() for n, score in wholes.items()}
    best = min(losses, key=lambda name: losses[name])
    lower = f"{abs(1 - losses[best] / before):.1%} {'lower' if losses[best] < before else 'higher'} than that of"
    if losses[best] <= (1 - CLEARLY) * before:
        return Context(
            wholes[best], f"It is shown what the whole {best} makes of the state: its loss is {lower} windows."
        )
    return Context(windows, f"{reads}: the loss of the whole field is {lower} these.")


def context_gaussian(
    samples: Samples, hops: int, pooling: Pooling, *, radius: int | None = None, seed: int = 0
) -> WindowedGaussianScore:
    """Fit the Gaussian of the context of a network.

    On whole chains of one law, where no radius is given, it reads windows of 32 hops (fewer on chains of less than 65
    vertices or of many channels) whose covariance is that of the Gaussian field; the field knows it from neighbours
    and next neighbours, while that of the data is, far out, mostly the error of few samples. Elsewhere a field repeats
    the covariances it was fitted to only nearly: the windows are the data's. On whole lattices without ends of more
    axes, with one law and 50 samples or more, every covariance is a mean over all vertices, and the windows are wide:
    distant vertices are too small a part of a held-out loss to choose them by. On other graphs they have the radii
    chosen for each noise level, or with too few samples to choose by, the hops of the field.

    ``hops``, at most 64, are those of the field; ``radius`` is that of this Gaussian.
    """
    graph = samples.graph
    if radius is None and pooling.one_law and graph.keep is None and graph.lattice is not None:
        if len(graph.lattice.shape) == 1:
            return _chain_windows(build_field(samples, hops, pooling).field, graph)
        if all(graph.lattice.periodic) and len(samples) >= TORUS_SAMPLES:
            return _torus_windows(samples)
    if radius is None and len(samples) >= FEWEST_TO_CHOOSE:
        table = select_radius_by_time(samples, pooling, seed=seed)
    else:
        table = ((1.0, hops if radius is None else radius),)
    return fit_windowed(samples, table, pooling)[2]


def _chain_windows(field: GaussianField, graph: DependencyGraph) -> WindowedGaussianScore:
    """Windows of a field of one law, computed on a chain that is just long enough to have all kinds of them."""
    assert graph.lattice is not None
    # Not so wide that no window of the chain is whole: a longer chain, onto which it may be extended, has whole ones.
    radius = min(CHAIN_RADIUS, (len(graph) - 1) // 2, max(1, (CHAIN_ENTRIES // field.n_channels - 1) // 2))
    small = DependencyGraph.grid((min(len(graph), 4 * CHAIN_RADIUS + 1),), periodic=graph.lattice.periodic)
    spectrum = field_spectrum(field.extended(graph, small), small, radius)
    return WindowedGaussianScore({radius: spectrum}, ((1.0, radius),), field.n_channels).extended(small, graph)


def _torus_windows(samples: Samples) -> WindowedGaussianScore:
    """Return the widest windows of few enough entries that meet themselves around no axis but short ones."""
    lattice, channels = samples.graph.lattice, samples.n_channels
    assert lattice is not None
    radius = 1
    narrowest = min([n for n in lattice.shape if n > SHORT_AXIS] or lattice.shape)
    while radius < (narrowest - 1) // 2 and lattice.ball_size(radius + 1) * channels <= TORUS_ENTRIES:
        radius += 1
    return WindowedGaussianScore({radius: torus_spectrum(samples, radius)}, ((1.0, radius),), channels)
