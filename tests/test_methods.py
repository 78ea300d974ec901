"""Methods: one table of names, settings checked where they are given, and a new one in a file of its own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import nearfield as nf
from nearfield.conditional import UnsupportedError
from nearfield.distribution import DiffusionModel, GaussianModel
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.methods import METHODS, FitOptions, Fitted, Gaussian, Hybrid, Masked, Method, Paper, class_of, method_of
from nearfield.paper.recipe import PaperRecipe
from nearfield.paper.vertex_training import VertexRecipe
from nearfield.samples import Samples
from nearfield.score.evidence import Evidence

X = np.random.default_rng(0).normal(size=(40, 12)).cumsum(axis=1)[:, 4:]
DOCS = Path(__file__).parents[1] / "docs" / "reference" / "methods.md"


def arrays(model):
    return model.sample(3, random_state=1), model.digest_


@pytest.mark.parametrize("name", METHODS)
def test_every_name_has_a_class_of_its_own_and_a_row_in_the_reference(name):
    kind = class_of(name)
    assert kind.__name__ == name.capitalize()
    assert kind.__module__ == f"nearfield.methods.{name}"
    assert f'| `"{name}"` | `{kind.__name__}` | {METHODS[name]} |' in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "settings", "method"),
    [
        ("gaussian", {"radius": 2, "pooling": 0.5}, Gaussian(2, 0.5)),
        ("masked", {"radius": 1}, Masked(1)),
        ("hybrid", {"radius": 2, "pooling": 1.0, "recipe": Recipe(steps=3)}, Hybrid(2, 1.0, Recipe(steps=3))),
    ],
)
def test_a_name_with_settings_is_the_object_with_them(name, settings, method, tmp_path):
    by_name = nf.LocalizedDiffusion(method=name, random_state=0, **settings).fit(X)
    by_object = nf.LocalizedDiffusion(method=method, random_state=0).fit(X)
    np.testing.assert_array_equal(by_name.sample(3, random_state=1), by_object.sample(3, random_state=1))
    by_object.save(tmp_path / "m")
    loaded = nf.load(tmp_path / "m")
    assert loaded.method == method
    assert arrays(loaded)[1] == by_object.digest_
    np.testing.assert_array_equal(arrays(loaded)[0], arrays(by_object)[0])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: method_of("gauss"), ValueError, "method must be one of auto, gaussian"),
        (lambda: method_of(3), ValueError, "method must be one of auto, gaussian"),
        (lambda: Gaussian(radius=-1), ValueError, "radius must be a number of hops, 0 or more, or 'auto', got -1"),
        (lambda: Gaussian(pooling=2), ValueError, r"pooling must be in \[0, 1\], got 2"),
        (lambda: Masked(pooling=1), ValueError, "does not pool"),
        (lambda: Hybrid(recipe=PaperRecipe()), TypeError, "recipe must be a Recipe with method='hybrid'"),
        (lambda: Hybrid(validation_fraction=1.0), ValueError, r"validation_fraction must be in \(0, 1\)"),
        (lambda: Paper(networks="each"), ValueError, 'networks must be "shared" or "vertex", got'),
        (lambda: Paper(recipe=VertexRecipe()), TypeError, "recipe must be a PaperRecipe"),
        (lambda: method_of(Gaussian(2), radius=3), ValueError, "radius must keep its default with method=Gaussian"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_given(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_settings_of_the_estimator_are_refused_beside_a_method():
    with pytest.raises(ValueError, match="radius must keep its default with method=Gaussian"):
        nf.LocalizedDiffusion(method=Gaussian(2), radius=3).fit(X)


def test_a_method_of_ones_own_is_fitted_drawn_from_and_scored():
    """White noise of the data's location and scale: its field is known."""

    @dataclass(frozen=True)
    class White(Method):
        def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
            fit = build_field(samples, 0, Pooling(0.0))
            return Fitted(fit.center, fit.scale, GaussianModel(fit.field), 0, Pooling(0.0), "White.", {})

    model = nf.LocalizedDiffusion(method=White(), random_state=0).fit(X)
    assert model.fit_report_.reason == "White."
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    density = -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=1) - np.log(X.std(axis=0)).sum()
    np.testing.assert_allclose(model.score_samples(X), density, rtol=1e-9)


def test_networks_of_single_vertices_are_reached_from_the_estimator(tmp_path):
    recipe = VertexRecipe(widths=(4,), sparsity=12, bound=0.5, steps=20, check_every=10)
    method = Paper(radius=1, networks="vertex", recipe=recipe)
    model, again = (nf.LocalizedDiffusion(method=method, random_state=0, n_jobs=jobs).fit(X) for jobs in (1, 2))
    weights = model.score_.network.weights
    assert weights.shape[0] == X.shape[1]
    assert int((weights != 0).sum(dim=1).max()) <= 12
    assert float(weights.abs().max()) <= 0.5
    np.testing.assert_array_equal(model.sample(2, random_state=0), again.sample(2, random_state=0))
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(nf.load(tmp_path / "m").sample(2, random_state=0), model.sample(2, random_state=0))
    assert "A network for each vertex" in model.fit_report_.reason


def test_the_law_of_a_sampler_says_itself_what_it_lacks():
    samples = Samples(X[..., None], DependencyGraph.chain(X.shape[1]))
    law = method_of("windowed", radius=1, pooling=1.0).fit(samples).law
    assert isinstance(law, DiffusionModel)
    known = Evidence.of_entries(np.ones(X.shape[1], dtype=bool), X[:1], np.arange(1))
    for ask in (lambda: law.gaussian, lambda: law.condition(known)):
        with pytest.raises(UnsupportedError, match="method='gaussian'"):
            ask()
