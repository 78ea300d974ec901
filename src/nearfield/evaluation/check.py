"""Checks that generated fields could be the data's: each a number, the interval it should be in, and one sentence.

An interval is the wider of two: the reach of chance alone (false-alarm rate about 1e-3 a check) and a margin of no
consequence in practice. A number inside passes; outside, it warns up to a stated tolerance and fails beyond. A check
for which the fields are too few is `unknown`, never passed. No check can prove two laws equal; a failed one shows that
they differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np
from scipy.special import stdtrit

from nearfield.evaluation.curve import Curve, VertexPairs
from nearfield.evaluation.metric import MarginalDistance, correlation_by_distance, nearest_distance

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "FALSE_ALARM",
    "Verdict",
    "check_copies",
    "check_log_density",
    "check_long_range",
    "check_marginal",
    "check_sample_count",
]

Status = Literal["pass", "warn", "fail", "unknown"]
FALSE_ALARM = 1e-3
_MOST_SAMPLES, _MOST_VERTICES = 1000, 2000  # for checks whose cost is quadratic in samples, or repeated


@final
@dataclass(frozen=True)
class Verdict:
    """Outcome of one check.

    Attributes
    ----------
    name : str
        Name of the check.
    status : {"pass", "warn", "fail", "unknown"}
        `unknown` when the fields are too few for the check.
    value : float or None
        The number found.
    low, high : float or None
        Interval it should be in; None for an open end.
    sentence : str
        Meaning of the number, and of its place.

    Examples
    --------
    >>> Verdict.judge("spread", 1.4, (0.9, 1.1), (0.8, 1.2), "variance, generated over data").status
    'fail'
    """

    name: str
    status: Status
    value: float | None
    low: float | None
    high: float | None
    sentence: str

    @classmethod
    def judge(
        cls,
        name: str,
        value: float,
        allowed: tuple[float | None, float | None],
        tolerated: tuple[float | None, float | None],
        sentence: str,
    ) -> Verdict:
        """Pass inside `allowed`, warn inside `tolerated`, fail beyond; an end that is None is open."""

        def inside(interval: tuple[float | None, float | None]) -> bool:
            low, high = interval
            return (low is None or value >= low) and (high is None or value <= high)

        status: Status = "pass" if inside(allowed) else "warn" if inside(tolerated) else "fail"
        return cls(name, status, float(value), *allowed, sentence)

    @classmethod
    def unknown(cls, name: str, sentence: str) -> Verdict:
        """Say that the check could not be made, and why."""
        return cls(name, "unknown", None, None, None, sentence)


def _noise(first: int, second: int, comparisons: int = 1) -> float:
    """Return the standard errors that the largest of so many differences passes by chance (Bonferroni)."""
    return -float(stdtrit(max(min(first, second) - 1, 1), FALSE_ALARM / 2 / comparisons))


def _ends(half_width: float) -> tuple[float, float]:
    return -half_width, half_width


def _place(label: str, value: float) -> str:
    """Put a number between the name and the unit of an axis."""
    name, _, unit = label.partition(", ")
    return f"{name} {value:.4g} {unit}"


def check_marginal(distance: MarginalDistance, unit: str, channel: int = 0) -> Verdict:
    """Marginal Wasserstein-1 distance against the largest one between halves of the data."""
    value, floor, high = (float(a[channel]) for a in (distance.distance, distance.noise_floor, distance.noise_high))
    return Verdict.judge(
        "marginal distributions",
        value,
        (None, high),
        (None, 1.5 * high),
        f"Wasserstein-1 distance of the value at a vertex, averaged over vertices, in {unit or 'units of the data'}, "
        f"between {distance.size} generated and {distance.size} data samples; two such parts of the data are "
        f"{floor:.3g} apart on average and {high:.3g} at most.",
    )


def check_long_range(
    real: Float[np.ndarray, "a vertex one"],
    generated: Float[np.ndarray, "b vertex one"],
    pairs: VertexPairs,
    curve: Curve,
    *,
    block: int = 1,
    seed: int = 0,
) -> Verdict:
    """Mean squared correlation of far pairs, generated less data: correlation that the model made up.

    Far is past the distance at which the data's `curve` first comes within two standard errors of zero; where it
    never does, the farthest quarter of the distances. .002 is of no consequence (a correlation of .05), .02 fails.
    """
    name = "spurious long-range correlation"
    if len(real) < 4 or len(generated) < 4 or len(pairs.axis) < 2:
        return Verdict.unknown(name, "This needs 4 samples of each kind and two distances.")
    quiet = np.flatnonzero(np.abs(curve.value[:, 0]) <= 2 * curve.error[:, 0])
    start = min(int(quiet[0]) if quiet.size else len(pairs.axis) * 3 // 4, len(pairs.axis) - 1)
    far = pairs.group >= start
    together = VertexPairs(
        pairs.first[far],
        pairs.second[far],
        np.zeros(int(far.sum()), dtype=int),
        pairs.axis[start : start + 1],
        pairs.label,
    )
    data, model = (
        correlation_by_distance(x, together, squared=True, block=width, seed=seed)
        for x, width in ((real, block), (generated, 1))
    )
    half = _noise(len(real), len(generated)) * float(np.hypot(data.error[0, 0], model.error[0, 0]))
    where = "where the data's is within noise of zero" if quiet.size else "the farthest quarter of the distances"
    return Verdict.judge(
        name,
        float(model.value[0, 0] - data.value[0, 0]),
        (None, max(half, 0.002)),
        (None, max(half, 0.02)),
        f"Mean squared correlation from {_place(pairs.label, pairs.axis[start])} on, {where}: generated "
        f"{model.value[0, 0]:.3g}, data {data.value[0, 0]:.3g}, each less what a finite set shows by chance; an excess "
        "was made up by the model.",
    )


def check_copies(
    real: Float[np.ndarray, "a vertex channel"], generated: Float[np.ndarray, "b vertex channel"], *, seed: int = 0
) -> Verdict:
    """Share of generated fields suspiciously near a data field, less the same share among the data themselves.

    Near is within half the median distance from a data field to the next; 1 % more than chance is of no consequence,
    10 % fails.
    """
    name = "copies of the data"
    if len(real) < 3:
        return Verdict.unknown(name, "This needs 3 data samples.")
    rng = np.random.default_rng(seed)
    scale = real.std(axis=0)
    vertices = np.sort(rng.permutation(real.shape[1])[:_MOST_VERTICES])
    drawn = np.sort(rng.permutation(len(generated))[:_MOST_SAMPLES])
    unit = np.where(scale > 0, scale, 1.0)[vertices]
    data, model = real[:, vertices] / unit, generated[drawn][:, vertices] / unit
    own, new = nearest_distance(data), nearest_distance(model, data)
    near = float(np.median(own)) / 2
    shares = float(np.mean(own < near)), float(np.mean(new < near))
    pooled = (shares[0] * len(own) + shares[1] * len(new)) / (len(own) + len(new))
    half = max(3 * np.sqrt(pooled * (1 - pooled) * (1 / len(own) + 1 / len(new))), 0.01)
    return Verdict.judge(
        name,
        shares[1] - shares[0],
        (None, float(half)),
        (None, max(float(half), 0.1)),
        f"Share of generated fields nearer to some data field than half the usual distance between data fields "
        f"({shares[1]:.3g}), less that share among the data ({shares[0]:.3g}); the median nearest data field is "
        f"{np.median(new):.3g} standard deviations away, {np.median(own):.3g} among the data.",
    )


def check_sample_count(n_samples: int, conditioning_size: int, pooled: bool) -> Verdict:
    """Fitted samples per number that one local law is conditioned on; 2 is comfortable, under 1 needs pooling."""
    return Verdict.judge(
        "samples per local law",
        n_samples / max(conditioning_size, 1),
        (2.0, None),
        (0.0 if pooled else 1.0, None),
        f"{n_samples} samples for local laws over at most {conditioning_size} values each; "
        + ("the laws are also pooled over vertices, which helps." if pooled else "pooling over vertices would help."),
    )


def check_log_density(
    generated: Float[np.ndarray, " a"], held_out: Float[np.ndarray, " b"], dimensions: int
) -> Verdict:
    """Mean log-density of the model's own fields less that of held-out data, per dimension.

    In nats; .05 is of no consequence, .5 fails.
    """
    errors = [values.std(ddof=1) / np.sqrt(len(values)) / dimensions for values in (generated, held_out)]
    half = max(_noise(len(generated), len(held_out)) * float(math.hypot(*errors)), 0.05)
    return Verdict.judge(
        "log-density of held-out data",
        float(generated.mean() - held_out.mean()) / dimensions,
        _ends(half),
        _ends(max(half, 0.5)),
        "Mean log-density of generated fields less that of held-out data, in nats per dimension; above the "
        "interval the model is too narrow (held-out data look unlikely to it), below it too wide.",
    )
