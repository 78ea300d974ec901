"""The windowed Gaussian that a hybrid's network is shown: what it reads, and where its covariance comes from."""

from __future__ import annotations

from nearfield.fitting.closed_form import build_field, field_spectrum, fit_windowed, torus_spectrum
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import select_radius_by_time
from nearfield.graph import DependencyGraph
from nearfield.samples import FEWEST_TO_CHOOSE, Samples
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import WindowedGaussianScore

__all__ = ["shown_gaussian"]

SHOWN_RADIUS = 32
"""Hops read by the Gaussian that a network is shown on chains with one law, at most."""
SHOWN_MEMBERS = 130
"""Numbers in a window of that Gaussian, at most."""
TORUS_MEMBERS = 320
"""Numbers in a window of the Gaussian that a network is shown on lattices without ends, at most: 12 hops of 2 axes."""
TORUS_SAMPLES = 50
"""Samples from which on that is wide."""
SHORT_AXIS = 8
"""Vertices of an axis around which the windows of a network meet themselves: it gets no longer, whatever is shown."""


def shown_gaussian(
    samples: Samples, hops: int, pooling: Pooling, *, radius: int | None = None, seed: int = 0
) -> WindowedGaussianScore:
    """Fit the Gaussian that a network is shown.

    On whole chains of one law, where no radius is given, it reads windows of 32 hops (fewer on chains of less than 65
    vertices or of many channels) whose covariance is that of the Gaussian field; the field knows it from neighbours
    and next neighbours, while that of the data is, far out, mostly the error of few samples. (Double-well chains, 200
    samples: the largest error of correlations to lag 30 is .006 to .015 over six data sets, and .011 to .033 for the
    data's own; to cut the windows off at 16 hops costs .04.) Elsewhere a field repeats the covariances it was fitted
    to only nearly: the windows are the data's. On whole lattices without ends of more axes, with one law and 50 samples
    or more, every covariance is a mean over all vertices, and the windows are wide. (Double-well fields of 32 x 32, 100
    samples: the error of correlations is .016 with 12 hops and .027 with the radii chosen by held-out loss, of which
    what is far is too small a part.) They meet themselves around no axis but those of up to 8 vertices. On other graphs
    they are of the radii chosen for each noise level, or with too few samples to choose by, of the hops of the field.

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
    radius = min(SHOWN_RADIUS, (len(graph) - 1) // 2, max(1, (SHOWN_MEMBERS // field.n_channels - 1) // 2))
    small = DependencyGraph.grid((min(len(graph), 4 * SHOWN_RADIUS + 1),), periodic=graph.lattice.periodic)
    spectrum = field_spectrum(field.extended(graph, small), small, radius)
    return WindowedGaussianScore({radius: spectrum}, ((1.0, radius),), field.n_channels).extended(small, graph)


def _torus_windows(samples: Samples) -> WindowedGaussianScore:
    """Return the widest windows that are few enough members and meet themselves around no axis but short ones."""
    lattice, channels = samples.graph.lattice, samples.n_channels
    assert lattice is not None
    radius = 1
    narrowest = min([n for n in lattice.shape if n > SHORT_AXIS] or lattice.shape)
    while radius < (narrowest - 1) // 2 and lattice.ball_size(radius + 1) * channels <= TORUS_MEMBERS:
        radius += 1
    return WindowedGaussianScore({radius: torus_spectrum(samples, radius)}, ((1.0, radius),), channels)
