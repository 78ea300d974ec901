"""The windowed Gaussian that is the context of a hybrid's network: its windows and its covariance."""

from __future__ import annotations

from nearfield.fitting.closed_form import build_field, field_spectrum, fit_windowed, torus_spectrum
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import select_radius_by_time
from nearfield.graph import DependencyGraph
from nearfield.samples import FEWEST_TO_CHOOSE, Samples
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import WindowedGaussianScore

__all__ = ["context_gaussian"]

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
