r"""Bayesian transport maps (Katzfuss and Schaefer, JASA 2023), written from the formulas.

Places are taken in maximin order. Each value is regressed on its nearest earlier values, the nearest first,

.. math:: x_i = f_i(x_{c(i)}) + \varepsilon_i,\quad \varepsilon_i \sim N(0, d_i^2),\quad
          f_i \mid d_i \sim GP(0, d_i^2 K_i / E d_i^2),\quad d_i^2 \sim IG(\alpha, \beta_i),

with weighted neighbours :math:`w_k = x_{c_k} e^{-k e^q / 2}` and :math:`K_i = w^\top w' + \sigma_i^2 M(|w - w'| /
e^\gamma)`, M Matern 3/2. By the distance :math:`l_i` to the nearest earlier place, :math:`E d_i^2 = e^{t_1 + t_2 \log
l_i}`, the standard deviation of :math:`d_i^2` being 4 times that, and :math:`\sigma_i = e^{s_1 + s_2 \log l_i}`. With
:math:`G = I + K_i / E d_i^2` over the n samples, f and d integrate out,

.. math:: \log p = \log\frac{\Gamma(\alpha + n/2)}{\Gamma(\alpha)} + \alpha\log\beta - (\alpha + \tfrac n2)
          \log\tilde\beta - \tfrac12\log|G| - \tfrac n2\log 2\pi,\quad \tilde\beta = \beta + \tfrac12 x^\top G^{-1} x,

whose sum over places is maximised over the six numbers. It has several optima, so the search starts at several points;
on large fields it looks at some of the places, evenly over the order. Predictions are Student's t with
:math:`2\alpha + n` degrees of freedom.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import qmc

from nearfield.graph.order import maximin_order

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    Places = Float[np.ndarray, "sample place"]

NEIGHBOURS = 30
SPREAD = 4.0
"""Standard deviation of a residual variance over its mean."""
ALPHA = 2 + 1 / SPREAD**2
SEARCH = ((256, 17), (8, 18), (2, 20))
"""Points tried, those searched on from and those searched on again; and the logarithm to base 2 of the numbers in the
kernels of the places by whose likelihood this is done."""
FEWEST = 40
"""Places looked at in any case."""
LOW = np.array([-3.0, 0.0, -3.0, -1.0, -2.0, -4.0])
HIGH = np.array([1.0, 2.0, 2.0, 2.0, 2.0, 1.0])
"""Box of the starts: t1, t2, s1, s2, gamma, q."""
MARGIN = 1.0
"""How far the search may leave the box: far outside, kernels without residual variance interpolate."""
ITERATIONS = 40
PART = 1 << 23
"""Numbers in the kernels computed at once."""


class Order(NamedTuple):
    """Places in maximin order, with the nearest earlier ones of each.

    Attributes
    ----------
    order : ndarray of int, shape (place,)
        The place at each position.
    before : ndarray of int, shape (position, neighbour)
        Positions of the nearest earlier ones, the nearest first; the position itself where there are fewer.
    present : ndarray of bool, shape (position, neighbour)
    log_length : ndarray, shape (position,)
        Logarithm of the distance to the nearest earlier one, over the largest; the first two's are extrapolated.
    """

    order: Int[np.ndarray, " position"]
    before: Int[np.ndarray, "position neighbour"]
    present: np.ndarray
    log_length: Float[np.ndarray, " position"]

    @classmethod
    def of(cls, points: Float[np.ndarray, "place axis"], n_neighbours: int = NEIGHBOURS) -> Order:
        """Order points and find their neighbours."""
        order = maximin_order(points)
        at, n = points[order], len(points)
        width = min(n_neighbours, n - 1)
        before, present, length = np.tile(np.arange(n)[:, None], width), np.zeros((n, width), dtype=bool), np.ones(n)
        for i in range(1, n):
            away = np.linalg.norm(at[:i] - at[i], axis=1)
            near = np.argsort(away, kind="stable")[:width]
            before[i, : len(near)], present[i, : len(near)], length[i] = near, True, away[near[0]]
        if n > 2:
            length[0] = length[1] ** 2 / length[2]
        return cls(order, before, present, np.log(length / length[min(1, n - 1) :].max()))


@final
class TransportMap:
    """Law of standardised values fitted to samples.

    Parameters
    ----------
    x : ndarray, shape (sample, place)
    points : ndarray, shape (place, axis)
    linear : bool
        Without the Matern part.
    seed : int
        Of the starts.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(20, 5)).cumsum(axis=1)
    >>> law = TransportMap(x, np.arange(5.0)[:, None])
    >>> law.log_prob(x).shape, law.sample(3, seed=0).shape
    ((20,), (3, 5))
    """

    def __init__(
        self, x: Places, points: Float[np.ndarray, "place axis"], *, linear: bool = False, seed: int = 0
    ) -> None:
        self.order, self.linear = Order.of(points), linear
        self._y = torch.from_numpy(np.ascontiguousarray(x[:, self.order.order].T))
        self.theta, self.loss = self._search(seed)
        self._fits = [self._fit(part) for part in self._parts(len(x))]

    def _search(self, seed: int) -> tuple[Tensor, float]:
        """Return the best of several local searches."""
        free = np.array([0, 1, 5]) if self.linear else np.arange(6)
        found: list[tuple[float, np.ndarray]] = []
        for count, numbers in SEARCH:
            places = max(FEWEST, 2**numbers // self._y.shape[1] ** 2)
            seen = np.unique(np.linspace(0, len(self._y) - 1, places).astype(int))
            if found:
                tried = [self._minimum(seen, theta, free) for _, theta in found[:count]]
            else:
                points = LOW + (HIGH - LOW) * qmc.Sobol(6, seed=seed).random(count)
                tried = [(self._loss(seen, torch.from_numpy(theta)).item(), theta) for theta in points]
            found = sorted(tried, key=lambda pair: pair[0])
        return torch.from_numpy(found[0][1]), found[0][0]

    def _loss(self, seen: Int[np.ndarray, " position"], theta: Tensor) -> Tensor:
        """Minus the integrated likelihood of some positions, nats per value."""
        return -integrated(self._prior(seen, theta), self._y[seen]).sum() / self._y[seen].numel()

    def _minimum(
        self, seen: Int[np.ndarray, " position"], start: np.ndarray, free: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Search on from a point, in the free numbers."""

        def whole(changed: np.ndarray) -> np.ndarray:
            theta = start.copy()
            theta[free] = changed
            return theta

        def loss(changed: np.ndarray) -> tuple[float, np.ndarray]:
            theta = torch.from_numpy(whole(changed)).requires_grad_()
            try:
                value = self._loss(seen, theta)
            except torch.linalg.LinAlgError:  # next to no residual variance: the line search steps back
                return 1e3, np.zeros(len(free))
            (slope,) = torch.autograd.grad(value, theta)
            return float(value.detach()), slope.numpy()[free]

        bounds = list(zip(LOW[free] - MARGIN, HIGH[free] + MARGIN, strict=True))
        best = minimize(loss, start[free], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
        return float(best.fun), whole(best.x)

    def _parts(self, n_samples: int) -> list[np.ndarray]:
        step = max(1, PART // (n_samples * max(n_samples, NEIGHBOURS)))
        return np.split(np.arange(len(self._y)), np.arange(step, len(self._y), step))

    def _prior(self, seen: Int[np.ndarray, " position"], theta: Tensor) -> Prior:
        return Prior.of(self.order, seen, theta, self.inputs(self._y, seen), linear=self.linear)

    def inputs(self, y: Tensor, seen: Int[np.ndarray, " position"]) -> Float[Tensor, "position sample neighbour"]:
        """Neighbours' values of some positions, 0 where there are none."""
        present = torch.from_numpy(self.order.present[seen])[:, :, None]
        return (y[self.order.before[seen]] * present).transpose(1, 2)

    def _fit(self, seen: Int[np.ndarray, " position"]) -> Posterior:
        return Posterior.of(seen, self._prior(seen, self.theta), self._y[seen])

    def log_prob(self, x: Places) -> Float[np.ndarray, " sample"]:
        """Log-density of samples, nats."""
        y = torch.from_numpy(np.ascontiguousarray(x[:, self.order.order].T))
        total = torch.zeros(len(x), dtype=torch.float64)
        for fit in self._fits:
            mean, scale = fit.predict(self.inputs(y, fit.seen))
            law = torch.distributions.StudentT(2 * ALPHA + self._y.shape[1], mean, scale)
            total += law.log_prob(y[fit.seen]).sum(dim=0)
        return total.numpy()

    def sample(self, n: int, seed: int) -> Places:
        """Draw samples, place after place; each conditional is Student's t."""
        noise = np.random.default_rng(seed).standard_t(2 * ALPHA + self._y.shape[1], size=(len(self._y), n))
        y = torch.zeros((len(self._y), n), dtype=torch.float64)
        for fit in self._fits:
            for row, place in enumerate(fit.seen):
                mean, scale = fit.at(row).predict(self.inputs(y, np.array([place])))
                y[place] = mean[0] + scale[0] * torch.from_numpy(noise[place])
        drawn = np.empty((n, len(self._y)))
        drawn[:, self.order.order] = y.numpy().T
        return drawn


class Prior(NamedTuple):
    """Kernels of some positions: weighted inputs, expected residual variance, scale of the Matern part, its range."""

    inputs: Float[Tensor, "position sample neighbour"]
    weight: Float[Tensor, " neighbour"]
    variance: Float[Tensor, " position"]
    scale: Float[Tensor, " position"]
    length: Tensor

    @classmethod
    def of(
        cls, order: Order, seen: Int[np.ndarray, " position"], theta: Tensor, inputs: Tensor, *, linear: bool
    ) -> Prior:
        """Compute them from the six numbers; without neighbours there is no Matern part."""
        log_length = torch.from_numpy(order.log_length[seen])
        t1, t2, s1, s2, gamma, q = theta
        weight = torch.exp(-0.5 * torch.exp(q) * torch.arange(1, inputs.shape[2] + 1, dtype=torch.float64))
        scale = torch.exp(2 * (s1 + s2 * log_length)) * torch.from_numpy(order.present[seen].any(axis=1))
        return cls(
            inputs * weight, weight, torch.exp(t1 + t2 * log_length), 0 * scale if linear else scale, gamma.exp()
        )

    def kernel(self, w: Tensor, v: Tensor) -> Tensor:
        """K / E d^2 between weighted inputs."""
        square = (w**2).sum(dim=2)[:, :, None] + (v**2).sum(dim=2)[:, None] - 2 * w @ v.transpose(1, 2)
        away = math.sqrt(3) * (square.clamp_min(0) + 1e-12).sqrt() / self.length
        matern = self.scale[:, None, None] * (1 + away) * torch.exp(-away)
        return (w @ v.transpose(1, 2) + matern) / self.variance[:, None, None]

    def root(self) -> Tensor:
        """Cholesky factor of G."""
        return torch.linalg.cholesky(
            self.kernel(self.inputs, self.inputs) + torch.eye(self.inputs.shape[1], dtype=torch.float64)
        )


def integrated(prior: Prior, y: Float[Tensor, "position sample"]) -> Float[Tensor, " position"]:
    """Logarithm of the integrated likelihood of each position."""
    root, n = prior.root(), y.shape[1]
    white = torch.linalg.solve_triangular(root, y[:, :, None], upper=False)[:, :, 0]
    beta = prior.variance * (ALPHA - 1)
    after = beta + 0.5 * (white**2).sum(dim=1)
    constant = math.lgamma(ALPHA + n / 2) - math.lgamma(ALPHA) - n / 2 * math.log(2 * math.pi)
    half_log_det = root.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return constant + ALPHA * beta.log() - (ALPHA + n / 2) * after.log() - half_log_det


class Posterior(NamedTuple):
    """What predictions of some positions need."""

    seen: Int[np.ndarray, " position"]
    prior: Prior
    root: Float[Tensor, "position sample sample"]
    white: Float[Tensor, "position sample 1"]
    spread: Float[Tensor, " position"]

    @classmethod
    def of(cls, seen: Int[np.ndarray, " position"], prior: Prior, y: Tensor) -> Posterior:
        """Condition on samples."""
        root = prior.root()
        white = torch.linalg.solve_triangular(root, y[:, :, None], upper=False)
        after = prior.variance * (ALPHA - 1) + 0.5 * (white**2).sum(dim=(1, 2))
        return cls(seen, prior, root, white, after / (ALPHA + y.shape[1] / 2))

    def at(self, row: int) -> Posterior:
        """Return that of one position."""
        rows = slice(row, row + 1)
        inputs, weight, variance, scale, length = self.prior
        prior = Prior(inputs[rows], weight, variance[rows], scale[rows], length)
        return Posterior(self.seen[rows], prior, self.root[rows], self.white[rows], self.spread[rows])

    def predict(self, inputs: Tensor) -> tuple[Float[Tensor, "position sample"], Float[Tensor, "position sample"]]:
        """Mean and scale of Student's t at new inputs."""
        new = inputs * self.prior.weight
        cross = torch.linalg.solve_triangular(self.root, self.prior.kernel(self.prior.inputs, new), upper=False)
        mean = (cross * self.white).sum(dim=1)
        own = ((new**2).sum(dim=2) + self.prior.scale[:, None]) / self.prior.variance[:, None]
        return mean, (self.spread[:, None] * (1 + (own - (cross**2).sum(dim=1)).clamp_min(0))).sqrt()
