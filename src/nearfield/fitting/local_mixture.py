"""Fit of a scale mixture on windows whose radius grows with the noise, chosen by held-out denoising loss."""

from __future__ import annotations

import numpy as np
import torch

from nearfield.fitting.closed_form import window_spectrum
from nearfield.fitting.cross_validation import candidate_radii
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import SIGMAS
from nearfield.fitting.scale_mixture import Energies, fit_components
from nearfield.fitting.search import one_torch_thread
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.noise import Stream, normals
from nearfield.process import noise_scale, signal_scale, time_of
from nearfield.samples import Samples
from nearfield.score.gaussian import WindowSpectrum
from nearfield.score.local_mixture import LocalMixtureScore, MixtureWindow

__all__ = ["fit_local_mixture", "mixture_window"]

WIDE = (8, 10, 12)
"""Radii on lattices of two axes beyond the candidates of a field: contrast is read from many cells."""
WIDEST = 320
"""Entries of the widest windows."""
POINTS = 4096
"""Most windows of one radius that EM is run on."""
HELD_OUT = 64
"""Most samples of the held-out loss."""
_FLOOR = 1e-9
"""Share of the largest eigenvalue below which a direction counts as absent."""


def fit_local_mixture(samples: Samples, pooling: Pooling, *, seed: int = 0) -> LocalMixtureScore:
    """Fit windows of each radius to standardised samples, and choose the radius of lowest loss at each noise level."""
    test = samples.folds(5, seed)[0]
    train, clean = samples.without(test), torch.from_numpy(samples.values[test[:HELD_OUT]])
    noise = torch.from_numpy(
        normals(seed, Stream.EVALUATION, range(len(clean)), 0, samples.n_vertices, samples.n_channels)
    )
    times, channels = [time_of(sigma) for sigma in SIGMAS], samples.n_channels
    radii, losses = _radii(samples.graph, channels), []
    with one_torch_thread(), torch.no_grad():
        for radius in radii:
            score = LocalMixtureScore(
                {radius: mixture_window(train, radius, pooling, seed)}, ((1.0, radius),), channels
            )
            noised = [signal_scale(t) * clean + noise_scale(t) * noise for t in times]
            losses.append(
                [float(((score.denoise(x, t) - clean) ** 2).mean()) for x, t in zip(noised, times, strict=True)]
            )
        best = [radii[i] for i in np.argmin(losses, axis=0)]
        windows = {radius: mixture_window(samples, radius, pooling, seed) for radius in sorted(set(best))}
    return LocalMixtureScore(windows, tuple(zip(times, best, strict=True)), channels)


def mixture_window(samples: Samples, radius: int, pooling: Pooling, seed: int = 0) -> MixtureWindow:
    """Fit the components of the windows of one radius, all windows alike."""
    spectrum = _without_absent(window_spectrum(samples, radius, pooling), samples.graph.neighborhood(radius))
    return MixtureWindow(spectrum, fit_components(_window_energies(samples, spectrum, seed), seed=seed))


def _without_absent(spectrum: WindowSpectrum, table: Neighborhood) -> WindowSpectrum:
    """Give absent entries, which point at the vertex itself, the eigenvalue 0, and with them directions that vanish."""
    _, first = np.unique(spectrum.law.numpy(), return_index=True)
    entries = spectrum.values.shape[1] // table.present.shape[1]
    present = torch.from_numpy(np.repeat(table.present[first], entries, axis=1)).double()[:, :, None]
    half = present * spectrum.vectors * spectrum.values.clamp_min(0.0).sqrt()[:, None]
    values, vectors = torch.linalg.eigh(half @ half.mT)
    values = torch.where(values > _FLOOR * values.amax(dim=1, keepdim=True), values, 0.0)
    return WindowSpectrum(spectrum.index, values, vectors.contiguous(), spectrum.law)


def _window_energies(samples: Samples, spectrum: WindowSpectrum, seed: int) -> Energies:
    """Energies of windows: of all where these are few, else of some, at every vertex as often."""
    n, vertices = len(samples), samples.n_vertices
    each = max(1, min(n, POINTS // vertices))
    rng = np.random.default_rng(seed)
    parts = []
    for vertex in rng.permutation(vertices)[:POINTS]:
        chosen, law = rng.permutation(n)[:each], int(spectrum.law[vertex])
        x = samples.values[chosen][:, spectrum.index[vertex].numpy()].reshape(each, -1)
        parts.append(Energies.of(x @ spectrum.vectors[law].numpy(), spectrum.values[law].numpy()))
    return Energies(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _radii(graph: DependencyGraph, n_channels: int) -> tuple[int, ...]:
    """Radii of at least 1 whose windows fit in the graph: on a larger lattice whole ones must have been seen."""
    lattice = graph.lattice
    radii = [r for r in candidate_radii(graph, n_channels) if r > 0]
    if lattice is not None:
        radii += [r for r in WIDE if len(lattice.shape) == 2 and r > max(radii, default=0)]
        widest = max(1, (min(lattice.shape) - 1) // 2)
        radii = [r for r in radii if r <= widest and lattice.ball_size(r) * n_channels <= WIDEST]
    return tuple(radii or [0])
