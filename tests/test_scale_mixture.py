"""Scale mixtures against exact laws, and the strict rule by which they are taken."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import nearfield as nf
from nearfield.datasets import CoxIngersollRoss, GaussianMarkovField
from nearfield.distribution import DiffusionModel, GaussianModel
from nearfield.fitting import scale_mixture
from nearfield.fitting.closed_form import build_field, fit_windowed
from nearfield.fitting.coarse import Scale, corrected
from nearfield.fitting.context import Locality, choose_context
from nearfield.fitting.local_mixture import fit_local_mixture, mixture_window
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.scale_mixture import LEVELS, Energies, choose_mixture, field_basis, fit_components
from nearfield.graph import DependencyGraph
from nearfield.methods import Mixture
from nearfield.mixture import MixtureModel
from nearfield.process import noise_scale, signal_scale
from nearfield.samples import Samples
from nearfield.score.context import FieldContext
from nearfield.score.eigenbasis import DenseBasis, WaveBasis
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore
from nearfield.score.local_mixture import LocalMixtureScore, MixtureWindow
from nearfield.score.mixture_components import N_BANDS, Components, bands
from nearfield.score.scale_mixture import ScaleMixtureField
from nearfield.score.stencil import StencilNetwork

ONE = Pooling(1.0)
GRID = DependencyGraph.grid((8, 8))
SCALES = np.array([[0.2], [1.0], [3.0]]) * np.linspace(0.7, 1.4, N_BANDS)
WEIGHTS = np.array([0.3, 0.5, 0.2])
SINGLE = Components(np.ones((1, N_BANDS)), np.ones(1))


@lru_cache
def textured(n: int, side: int, seed: int) -> np.ndarray:
    """A rough field times exp of a slow one: contrast differs between samples, and within them."""
    rng, wide = np.random.default_rng(seed), side + 24
    rough, slow = (
        np.stack([gaussian_filter(rng.normal(size=(wide, wide)), width) for _ in range(n)]) for width in (1.2, 6.0)
    )
    fine = rough / rough.std() + 0.3 * rng.normal(size=rough.shape)
    return (fine * np.exp(0.7 * slow / slow.std()))[:, 12:-12, 12:-12]


def fitted(x: np.ndarray, graph: DependencyGraph, radius: int = 2) -> tuple[Samples, GaussianField]:
    samples = Samples(x.reshape(len(x), len(graph), -1), graph)
    fit = build_field(samples, radius, ONE)
    return samples.standardized(fit.center, fit.scale), fit.field


def small(seed: int = 0, n: int = 5) -> tuple[ScaleMixtureField, list[np.ndarray]]:
    """A mixture on few variables, and the dense covariance of each component, computed apart."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n)) + 2 * np.eye(n)
    values, vectors = np.linalg.eigh(root @ root.T / n)
    rank = np.argsort(np.argsort(-values))
    # the last band has the smaller half of the eigenvalues, the one before the next quarter
    band = np.clip(N_BANDS + np.floor(np.log2((rank + 0.5) / n)).astype(int), 0, N_BANDS - 1)
    dense = [vectors @ np.diag(values * scale[band]) @ vectors.T for scale in SCALES]
    return ScaleMixtureField(DenseBasis(values, vectors), Components(SCALES, WEIGHTS)), dense


def dense_log_prob(x: np.ndarray, covariances: list[np.ndarray]) -> np.ndarray:
    return logsumexp(
        [np.log(w) + multivariate_normal(cov=c).logpdf(x) for w, c in zip(WEIGHTS, covariances, strict=True)], axis=0
    )


def test_bands_halve_the_ranks_from_the_smallest_eigenvalue_up():
    values = torch.from_numpy(np.random.default_rng(0).permutation(np.r_[np.geomspace(1, 100, 256), np.zeros(9)]))
    sizes = np.bincount(bands(values)[values > 0].numpy())
    assert sizes.tolist() == [4, 4, 8, 16, 32, 64, 128]
    assert values[(bands(values) == 0) & (values > 0)].min() > values[bands(values) == 1].max()


@pytest.mark.parametrize("kind", ["plain", "two channels", "corrected"])
def test_a_single_component_is_the_field(kind):
    x = textured(80, 8, 0)
    if kind == "two channels":
        x = np.stack([x, x + np.random.default_rng(1).normal(size=x.shape)], axis=-1)
    samples, field = fitted(x, GRID)
    if kind == "corrected":
        field = corrected(field, samples, Scale(4, shrinkage=0.3))
    mixture = ScaleMixtureField(field_basis(field, GRID, one_law=True), SINGLE, n_channels=samples.n_channels)
    np.testing.assert_allclose(mixture.log_prob(samples.values), field.log_prob(samples.values), rtol=1e-9)
    y = torch.from_numpy(samples.values)
    for t in (0.003, 0.4, 3.0):
        torch.testing.assert_close(mixture.denoise(y, t), field.denoise(y, t), rtol=1e-9, atol=1e-9)
    observed = np.random.default_rng(2).uniform(size=samples.values.shape[1:]) < 0.4
    both = [law.conditional(observed).mean(samples.values[:4]) for law in (mixture, field)]
    np.testing.assert_allclose(*both, rtol=1e-8, atol=1e-9)


def test_the_density_is_that_of_the_dense_mixture_and_integrates_to_one():
    mixture, dense = small()
    x = np.random.default_rng(1).normal(size=(20, 5))
    np.testing.assert_allclose(mixture.log_prob(x[..., None]), dense_log_prob(x, dense), rtol=1e-11)
    pair, _ = small(n=2)
    grid = np.linspace(-25, 25, 1201)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2, 1)
    assert np.exp(pair.log_prob(points)).sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1, abs=1e-6)


def test_the_denoiser_is_tweedies_of_the_noised_density():
    mixture, dense = small()
    for t in (0.01, 0.3, 2.0):
        a, s = signal_scale(t), noise_scale(t)
        laws = [
            torch.distributions.MultivariateNormal(
                torch.zeros(5, dtype=torch.float64), torch.from_numpy(a**2 * c + s**2 * np.eye(5))
            )
            for c in dense
        ]
        x = torch.from_numpy(np.random.default_rng(3).normal(size=(6, 5))).requires_grad_()
        log_density = torch.logsumexp(
            torch.stack([law.log_prob(x) + np.log(w) for law, w in zip(laws, WEIGHTS, strict=True)]), dim=0
        )
        (score,) = torch.autograd.grad(log_density.sum(), x)
        torch.testing.assert_close(mixture.score(x.detach()[..., None], t)[..., 0], score, rtol=1e-9, atol=1e-10)


def test_the_shown_variance_is_the_average_over_known_components():
    mixture, dense = small()
    for t in (0.0, 0.3):
        sigma2 = np.expm1(2 * t)
        of_each = [np.diag(c @ np.linalg.inv(c + sigma2 * np.eye(5)) @ c) for c in dense]
        _, v = mixture.denoise_with_variance(torch.zeros(2, 5, 1, dtype=torch.float64), t)
        np.testing.assert_allclose(v[0, :, 0], np.average(of_each, axis=0, weights=WEIGHTS), rtol=1e-9)
    both = mixture.denoise_with_variance(torch.zeros(2, 5, 1), torch.tensor([0.3, 0.0], dtype=torch.float64))[1]
    np.testing.assert_allclose(both[0], v[0], rtol=1e-5)


def test_draws_have_the_moments_of_the_law_and_do_not_depend_on_their_batch():
    """Each of 5 chi-squares alarms once in 10,000 times."""
    mixture, dense = small()
    drawn = mixture.sample(4000, seed=0)[..., 0]
    np.testing.assert_array_equal(mixture.sample(2, seed=0, first_member=7)[..., 0], drawn[7:9])
    belief = np.array([np.log(w) + multivariate_normal(cov=c).logpdf(drawn) for w, c in zip(WEIGHTS, dense)])  # noqa: B905
    belief = np.exp(belief - logsumexp(belief, axis=0))
    # E r_k = pi_k, and E r_k x'C^-1 x = 5 pi_k: the components are in the draws as often and as large as in the law
    for k, c in enumerate(dense):
        error = belief[k] - WEIGHTS[k]
        assert abs(error.mean()) < 3.9 * error.std() / np.sqrt(len(drawn))
        size = belief[k] * np.einsum("si,ij,sj->s", drawn, np.linalg.inv(c), drawn)
        assert abs(size.mean() - 5 * WEIGHTS[k]) < 3.9 * size.std() / np.sqrt(len(drawn))
    covariance, whole = np.cov(drawn.T), np.average(dense, axis=0, weights=WEIGHTS)
    assert np.linalg.eigvals(np.linalg.solve(whole, covariance)).real == pytest.approx(np.ones(5), abs=0.25)


def test_missing_entries_have_the_conditional_law_of_the_dense_mixture():
    """Moments of 3,000 draws of 3 entries and their products: 9 z-values, one above 4.4 in 10,000 runs."""
    mixture, dense = small()
    observed = np.array([True, False, True, False, False])[:, None]
    x = np.array([2.0, 0.0, -1.5, 0.0, 0.0])
    seen = observed[:, 0]
    means, spreads, log_weights = [], [], []
    for w, c in zip(WEIGHTS, dense, strict=True):
        gain = np.linalg.solve(c[np.ix_(seen, seen)], c[np.ix_(seen, ~seen)]).T
        means.append(gain @ x[seen])
        spreads.append(c[np.ix_(~seen, ~seen)] - gain @ c[np.ix_(seen, ~seen)])
        log_weights.append(np.log(w) + multivariate_normal(cov=c[np.ix_(seen, seen)]).logpdf(x[seen]))
    belief = np.exp(log_weights - logsumexp(log_weights))
    mean = belief @ np.array(means)
    law = mixture.conditional(observed)
    filled = law.mean(np.where(observed, x[:, None], 99.0)[None])[0, :, 0]
    np.testing.assert_allclose(filled[~seen], mean, rtol=1e-9)
    np.testing.assert_array_equal(filled[seen], x[seen])
    drawn = law.sample(x[:, None], 3000, seed=1)[..., 0]
    assert (drawn[:, seen] == x[seen]).all()
    second = sum(p * (s + np.outer(m, m)) for p, s, m in zip(belief, spreads, means, strict=True))
    products = np.einsum("si,sj->sij", drawn[:, ~seen], drawn[:, ~seen])
    for values, truth in ((drawn[:, ~seen], mean), (products, second)):
        assert np.all(abs(values.mean(axis=0) - truth) < 4.4 * values.std(axis=0) / np.sqrt(3000))
    everything = mixture.conditional(np.ones((5, 1), dtype=bool)).sample(x[:, None], 2, seed=0)
    np.testing.assert_array_equal(everything[..., 0], [x, x])


def test_steps_of_em_raise_the_likelihood_and_find_the_components():
    rng = np.random.default_rng(0)
    size = np.tile([4.0, 4, 8, 16, 32, 64, 128], (400, 1))
    k = rng.choice(3, size=400, p=WEIGHTS)
    points = Energies(SCALES[k] * rng.chisquare(size), size)
    scales, weights = rng.uniform(0.5, 2, size=(3, N_BANDS)), np.ones(3) / 3
    before = -np.inf
    for _ in range(20):
        joint = (
            np.log(weights)
            - 0.5 * ((points.energy / scales[:, None]).sum(-1) + (size * np.log(scales[:, None])).sum(-1)).T
        )
        prior = -0.5 * (size[0] * (np.log(scales) + 1 / scales)).sum() + np.log(weights).sum()
        objective = logsumexp(joint, axis=1).sum() + prior
        assert objective >= before - 1e-9
        before = objective
        scales, weights = scale_mixture.maximised(points, np.exp(joint - logsumexp(joint, axis=1, keepdims=True)))
    found = fit_components(points, 3)
    order = np.argsort(found.scales[:, -1].numpy())
    np.testing.assert_allclose(found.scales.numpy()[order], SCALES, rtol=0.2)
    np.testing.assert_allclose(found.weights.numpy()[order], [np.mean(k == i) for i in range(3)], atol=0.01)


def test_plane_waves_are_the_eigenbasis_of_a_stationary_law(monkeypatch):
    """Of a circulant precision exactly; with a correction at larger scales, of its average over shifts."""
    ring = DependencyGraph.torus((6, 8))
    lag = np.zeros((6, 8))
    lag[0, 0], lag[0, [1, -1]], lag[[1, -1], 0], lag[1, 1], lag[-1, -1] = 3.0, -0.5, -0.7, 0.2, 0.2
    cells = np.stack(np.unravel_index(np.arange(48), (6, 8)))
    precision = lag[tuple((cells[:, :, None] - cells[:, None]) % np.array([6, 8])[:, None, None])]
    root = np.linalg.cholesky(precision[::-1, ::-1]).T[::-1, ::-1]
    field = GaussianField(sp.csr_array(root), np.arange(48), 1, 9)
    dense = ScaleMixtureField(field_basis(field, ring, one_law=True), Components(SCALES, WEIGHTS))
    monkeypatch.setattr(scale_mixture, "LARGEST", 0)
    basis = field_basis(field, ring, one_law=True)
    assert isinstance(basis, WaveBasis)
    eye = torch.eye(48, dtype=torch.float64)
    np.testing.assert_allclose(basis.restored(basis.coordinates(eye)), eye, atol=1e-14)
    diagonal = basis.coordinates(basis.coordinates(torch.from_numpy(precision)).T)
    np.testing.assert_allclose(diagonal, np.diag(1 / basis.values), atol=1e-12)
    x = np.random.default_rng(0).normal(size=(5, 48, 1))
    single = [ScaleMixtureField(b, SINGLE) for b in (basis, dense.basis)]
    np.testing.assert_allclose(single[0].log_prob(x), single[1].log_prob(x), rtol=1e-10)
    v = [s.denoise_with_variance(torch.from_numpy(x), 0.3)[1] for s in single]
    torch.testing.assert_close(v[0], v[1], rtol=1e-10, atol=0)
    samples, plain = fitted(np.random.default_rng(1).normal(size=(60, 6, 8)).cumsum(axis=1), ring)
    matched = corrected(plain, samples, Scale(3, shrinkage=0.3))
    shifts = [np.roll(np.arange(48).reshape(6, 8), shift, (0, 1)).ravel() for shift in np.ndindex(6, 8)]
    inverse = np.linalg.inv(matched.covariance())
    mean = torch.from_numpy(np.mean([inverse[np.ix_(s, s)] for s in shifts], axis=0))
    average = basis.coordinates(basis.coordinates(mean).T).diagonal()
    np.testing.assert_allclose(field_basis(matched, ring, one_law=True).values, 1 / average, rtol=1e-8)
    assert field_basis(field, DependencyGraph.grid((6, 8)), one_law=True) is None
    assert field_basis(field, ring, one_law=False) is None


def test_the_law_of_a_patch_holds_on_windows_of_a_larger_lattice():
    mixture, _ = small(n=30)
    graph, onto = DependencyGraph.grid((5, 6)), DependencyGraph.grid((9, 13))
    larger = mixture.extended(graph, onto)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 9, 13, 1)))
    wide = larger.denoise(x.reshape(3, -1, 1), 0.3).reshape(3, 9, 13)
    corner = mixture.denoise(x[:, :5, :6].reshape(3, -1, 1), 0.3).reshape(3, 5, 6)
    torch.testing.assert_close(wide[:, 0, 0], corner[:, 0, 0])
    inside = mixture.denoise(x[:, 2:7, 3:9].reshape(3, -1, 1), 0.3).reshape(3, 5, 6)
    torch.testing.assert_close(wide[:, 4, 6], inside[:, 2, 3])
    v = larger.denoise_with_variance(x.reshape(3, -1, 1), 0.3)[1].reshape(9, 13)
    torch.testing.assert_close(v[4, 6], mixture.denoise_with_variance(x[:, :5, :6].reshape(3, -1, 1), 0.3)[1][0, 15, 0])
    assert larger.radius == graph.diameter()
    # an untrained network adds nothing to what it is shown
    hybrid = HybridScore(StencilNetwork(graph, 1, n_context=2).double(), mixture)
    wider = hybrid.extended(graph, onto).denoise(x.reshape(3, -1, 1), 0.3).reshape(3, 9, 13)
    shown = hybrid.denoise(x[:, 2:7, 3:9].reshape(3, -1, 1), 0.3).reshape(3, 5, 6)
    torch.testing.assert_close(wider[:, 4, 6], shown[:, 2, 3])
    same = mixture.extended(graph, graph)
    assert same.radius is None
    torch.testing.assert_close(same.denoise(x[:, :5, :6].reshape(3, -1, 1), 0.3)[..., 0], corner.reshape(3, -1))
    with pytest.raises(ValueError, match="a score alone"):
        larger.sample(1, seed=0)
    ring = DependencyGraph.grid((5, 6), periodic=(False, True))
    assert mixture.extended(ring, DependencyGraph.grid((9, 6), periodic=(False, True))).n_vertices == 54
    with pytest.raises(ValueError, match="along axes without ends"):
        mixture.extended(ring, DependencyGraph.grid((5, 9), periodic=(False, True)))
    with pytest.raises(ValueError, match="no smaller"):
        mixture.extended(graph, DependencyGraph.grid((4, 9)))


def test_local_windows_weigh_components_by_what_they_hold():
    """A corner, a vertex inside, and both at once against the dense law of their own windows."""
    x = textured(60, 8, 0)
    samples, _ = fitted(x, GRID)
    window = mixture_window(samples, 2, ONE)
    one = LocalMixtureScore({2: MixtureWindow(window.spectrum, SINGLE)}, ((1.0, 2),))
    gaussian = fit_windowed(samples, ((1.0, 2),), ONE)[2]
    y = torch.from_numpy(samples.values[:4])
    torch.testing.assert_close(one.denoise(y, 0.3), gaussian.denoise(y, 0.3), rtol=1e-7, atol=1e-9)
    score = LocalMixtureScore({2: MixtureWindow(window.spectrum, Components(SCALES, WEIGHTS))}, ((1.0, 2),))
    found, a, s = score.denoise(y, 0.3), signal_scale(0.3), noise_scale(0.3)
    spectrum = window.spectrum
    for vertex in (0, 27):
        members = np.flatnonzero(GRID.distance_matrix()[vertex] <= 2)
        law = int(spectrum.law[vertex])
        values, vectors = spectrum.values[law].numpy(), spectrum.vectors[law].numpy()
        entries = [int(np.flatnonzero(spectrum.index[vertex].numpy() == m)[0]) for m in members]
        assert (values > 0).sum() == len(members)
        spectra = Components(SCALES, WEIGHTS).spectra(torch.from_numpy(values)).numpy()
        dense = [((vectors * v) @ vectors.T)[np.ix_(entries, entries)] for v in spectra]
        state, own = y[:, members, 0].numpy(), list(members).index(vertex)
        noised = [a**2 * c + s**2 * np.eye(len(members)) for c in dense]
        joint = np.array(
            [np.log(w) + multivariate_normal(cov=c).logpdf(state) for w, c in zip(WEIGHTS, noised, strict=True)]
        )
        belief = np.exp(joint - logsumexp(joint, axis=0))
        clean = [a * c[own] @ np.linalg.solve(n, state.T) for c, n in zip(dense, noised, strict=True)]
        np.testing.assert_allclose(found[:, vertex, 0], (belief * clean).sum(axis=0), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_local_windows_grow_with_the_noise_and_extend():
    samples, field = fitted(textured(120, 12, 0), DependencyGraph.grid((12, 12)))
    score = fit_local_mixture(samples, ONE)
    radii = [r for _, r in score.radius_by_time]
    assert min(radii) >= 2
    assert max(radii) > radii[0]
    held_out = (textured(40, 12, 5) / textured(120, 12, 0).std()).reshape(40, -1, 1)
    clean = torch.from_numpy(held_out)
    xi = torch.from_numpy(np.random.default_rng(0).normal(size=held_out.shape))
    whole, _ = choose_mixture(samples, field, one_law=True)
    assert whole is not None
    for t in (0.05, 0.3):
        noised = signal_scale(t) * clean + noise_scale(t) * xi
        of_field, of_whole, of_local = (
            ((d.denoise(noised, t) - clean) ** 2).mean(dim=(1, 2)) for d in (field, whole, score)
        )
        pairs = [(of_field, of_whole), (of_field, of_local)]
        if t == 0.05:  # contrast varies within fields, which little noise lets windows tell
            pairs.append((of_whole, of_local))
        for worse, better in pairs:
            assert (worse - better).mean() > 2 * (worse - better).std() / np.sqrt(40)


def test_local_windows_on_a_larger_lattice_are_those_that_were_seen():
    samples, _ = fitted(textured(60, 8, 0), GRID)
    window, onto = mixture_window(samples, 2, ONE), DependencyGraph.grid((9, 13))
    score = LocalMixtureScore({2: window}, ((1.0, 2),))
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 9, 13, 1)))
    small = score.denoise(x[:, 1:, 3:11].reshape(2, -1, 1), 0.3).reshape(2, 8, 8)
    wide = score.extended(GRID, onto).denoise(x.reshape(2, -1, 1), 0.3).reshape(2, 9, 13)
    torch.testing.assert_close(wide[:, 3:7, 5:9], small[:, 2:6, 2:6])


CASES = {
    "gaussian": lambda: (
        GaussianMarkovField.nonstationary((10, 10), kappa=(0.6, 0.6)).sample(120, random_state=0),
        DependencyGraph.grid((10, 10)),
        False,
    ),
    "skewed chain": lambda: (
        CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=64).sample(200, random_state=0),
        DependencyGraph.chain(64),
        False,
    ),
    "texture": lambda: (textured(100, 10, 0), DependencyGraph.grid((10, 10)), True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mixture_is_taken_only_where_the_data_clearly_ask_for_it(case):
    x, graph, wanted = CASES[case]()
    samples, field = fitted(x, graph)
    mixture, reason = choose_mixture(samples, field, one_law=True)
    assert (mixture is not None) == wanted, reason
    assert choose_mixture(samples.take(slice(0, 30)), field, one_law=True)[0] is None


def test_a_network_is_shown_the_mixture_where_it_is_asked_for():
    """And the mixture of one component shows it what the field does, computed by another path."""
    found = {}
    for name, x in (("texture", textured(80, 8, 0)), ("noise", np.random.default_rng(0).normal(size=(80, 8, 8)))):
        samples, field = fitted(x, GRID)
        used, unseen = samples.take(np.arange(60)), samples.take(np.arange(60, 80))
        found[name] = choose_context(used, unseen, Locality(2, ONE), LEVELS)
        single = ScaleMixtureField(field_basis(field, samples.graph, one_law=True), SINGLE)
        times = torch.linspace(0.0, 2.0, 20, dtype=torch.float64)
        shown = [c.denoise_with_variance(torch.from_numpy(unseen.values), times) for c in (single, FieldContext(field))]
        torch.testing.assert_close(*shown, rtol=1e-7, atol=1e-9)
    assert isinstance(found["texture"].score, ScaleMixtureField)
    assert "the whole scale mixture of Gaussian fields makes of the state" in found["texture"].reason
    assert not isinstance(found["noise"].score, ScaleMixtureField)


def test_the_method_fits_draws_scores_fills_and_is_stored(tmp_path):
    x, test = textured(100, 10, 0), textured(60, 10, 1)
    model = nf.LocalizedDiffusion(method="mixture", radius=2, pooling=1.0, random_state=0).fit(x)
    field = nf.LocalizedDiffusion(method="gaussian", radius=2, pooling=1.0, random_state=0).fit(x)
    gain = (model.score_samples(test) - field.score_samples(test)) / 100
    assert gain.mean() > 4 * gain.std() / np.sqrt(60)
    assert isinstance(model.model_.law, MixtureModel)
    assert "held_out_nats_per_dimension" not in model.model_.summary()  # the field's loss is not the mixture's
    model.save(tmp_path / "m")
    loaded = nf.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.sample(3, random_state=1), model.sample(3, random_state=1))
    np.testing.assert_array_equal(loaded.score_samples(test), model.score_samples(test))
    hidden = np.where(np.random.default_rng(0).uniform(size=test.shape) < 0.3, np.nan, test)
    filled = np.asarray(model.impute(hidden, n_samples=2, random_state=0))
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[1][~np.isnan(hidden)], test[~np.isnan(hidden)])
    given = {"radius": 1, "pooling": 1.0, "random_state": 0}
    plain = nf.LocalizedDiffusion(method="mixture", **given).fit(np.random.default_rng(0).normal(size=(50, 30)))
    assert isinstance(plain.model_.law, GaussianModel)
    assert "No scale mixture" in plain.fit_report_.reason
    with pytest.raises(ValueError, match='weights must be "whole" or "local", got 3'):
        Mixture(weights=3)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["whole", "local"])
def test_models_of_either_weights_are_drawn_on_larger_lattices(weights, tmp_path):
    """Draws have the data's variance and spread of contrast, and a stored model the same draws."""
    x = textured(120, 10, 0)
    model = nf.LocalizedDiffusion(method=Mixture(2, 1.0, weights), random_state=0).fit(x)
    larger = model.extend((12, 14))
    larger.save(tmp_path / "m")
    drawn = np.asarray(larger.sample(60, random_state=0))
    np.testing.assert_array_equal(nf.load(tmp_path / "m").sample(60, random_state=0), drawn)
    assert drawn.shape == (60, 12, 14)
    assert isinstance(larger.model_.law, DiffusionModel)
    assert isinstance(larger.model_.law.score, ScaleMixtureField if weights == "whole" else LocalMixtureScore)
    spread = [np.log(values[:, :10, :10].std(axis=(1, 2))).std() for values in (drawn, x)]
    assert spread[0] > 0.6 * spread[1]  # of Gaussian draws it is a third
    assert drawn.std() == pytest.approx(x.std(), rel=0.25)
