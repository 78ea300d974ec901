"""Does the report see it? Twenty equal laws, and twenty draws of each wrong generator, on a field of known law.

240 training samples and 500 generated ones of a Gaussian field on 24 x 24 vertices, correlation `exp(-h / 3)` and one
noise term. Printed: how many of the draws pass, warn and fail, and the checks that fail most often.

    python -m benchmarks.report [--draws 20] [--size 24] [--samples 240] [--members 500]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

import numpy as np

from benchmarks.table import show
from nearfield.evaluation.agreement import Agreement
from nearfield.evaluation.moment import Yardstick, statistics_of
from nearfield.evaluation.ruler import Ruler
from nearfield.graph import DependencyGraph

Fields = np.ndarray


class Law:
    """Gaussian field on a grid, unit variance, correlation `exp(-h / length)` at Euclidean distance h."""

    def __init__(self, size: int, length: float = 3.0) -> None:
        self.size = size
        at = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1).reshape(-1, 2)
        distance = np.linalg.norm(at[:, None] - at[None], axis=-1)
        self.values, self.vectors = np.linalg.eigh(np.exp(-distance / length))

    def draw(self, n: int, rng: np.random.Generator, spectrum: np.ndarray | None = None) -> Fields:
        """Draw fields, with other eigenvalues where they are given."""
        values = self.values if spectrum is None else spectrum
        return (rng.normal(size=(n, len(values))) * np.sqrt(np.maximum(values, 0.0))) @ self.vectors.T

    def modes(self, factor: float, count: int) -> np.ndarray:
        """Eigenvalues with the leading ones times a factor."""
        return np.concatenate([self.values[:-count], factor * self.values[-count:]])


def shuffle_blocks(x: Fields, size: int, rng: np.random.Generator, side: int = 8) -> Fields:
    """Put together each field from blocks of different fields."""
    blocks = x.reshape(len(x), size // side, side, size // side, side).copy()
    for i in range(size // side):
        for j in range(size // side):
            blocks[:, i, :, j] = blocks[rng.permutation(len(x)), i, :, j]
    return blocks.reshape(len(x), -1)


def generators(law: Law) -> dict[str, Callable[[int, np.random.Generator], Fields]]:
    """Name the right generator and the wrong ones."""

    def tails(n: int, rng: np.random.Generator) -> Fields:
        x = law.draw(n, rng)
        return np.where(np.abs(x) > 2.326, 1.3 * x, x)

    def far(n: int, rng: np.random.Generator) -> Fields:
        return np.sqrt(0.9) * law.draw(n, rng) + np.sqrt(0.1) * rng.normal(size=(n, 1))

    def noisy(n: int, rng: np.random.Generator) -> Fields:
        return np.sqrt(0.95) * law.draw(n, rng) + np.sqrt(0.05) * rng.normal(size=(n, law.size**2))

    return {
        "equal law": law.draw,
        "variance .9": lambda n, rng: np.sqrt(0.9) * law.draw(n, rng),
        "five leading modes, variance .7": lambda n, rng: law.draw(n, rng, law.modes(0.7, 5)),
        "leading mode, amplitude .7": lambda n, rng: law.draw(n, rng, law.modes(0.49, 1)),
        "far correlation +.1": far,
        "tails 1.3": tails,
        "white noise, 5 % of the variance": noisy,
        "shuffled blocks of 8 x 8": lambda n, rng: shuffle_blocks(law.draw(n, rng), law.size, rng),
        "five leading modes, variance .45": lambda n, rng: law.draw(n, rng, law.modes(0.45, 5)),
    }


def judge(data: Fields, generated: Fields, ruler: Ruler) -> tuple[str, list[str]]:
    """Return the worst outcome of all checks of moments, and those that do not pass."""
    stick = Yardstick.of(data)
    found = Agreement(statistics_of(ruler), stick.measure(data, ruler, own=True), stick.measure(generated, ruler))
    checks = found.checks()
    worst = next((s for s in ("fail", "warn") if any(c.status == s for c in checks)), "pass")
    return worst, [c.name for c in checks if c.status == worst != "pass"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("draws", 20), ("size", 24), ("samples", 240), ("members", 500), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    law, ruler = Law(args.size), Ruler.of(DependencyGraph.grid((args.size, args.size)))
    rows = []
    for name, generator in generators(law).items():
        outcomes: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        for draw in range(args.draws):
            rng = np.random.default_rng([args.seed, draw])
            outcome, names = judge(law.draw(args.samples, rng), generator(args.members, rng), ruler)
            outcomes[outcome] += 1
            seen.update(names)
        shown = ", ".join(f"{check} {count}" for check, count in seen.most_common(3))
        rows.append([name, *(str(outcomes[s]) for s in ("pass", "warn", "fail")), shown])
    show(
        f"Outcomes of the report's checks of moments, {args.draws} draws each",
        ["generator", "pass", "warn", "fail", "seen by"],
        rows,
    )


if __name__ == "__main__":
    main()
