"""What a model file can hold: every class of ours, and nothing that is not ours."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import nearfield
from nearfield import module as ours
from nearfield.graph import DependencyGraph
from nearfield.module import Module, describe, rebuild, settings_of
from nearfield.paper.score import PaperNetwork
from nearfield.paper.vertex import VertexNetworks
from nearfield.score.field import GaussianField
from nearfield.score.network import Network
from nearfield.score.predictive import PredictiveField
from nearfield.score.sparse import SparseMatrix
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowNetwork

GRAPH = DependencyGraph.grid((4, 3))
NETWORKS = {
    "stencil": lambda: StencilNetwork(GRAPH, 2, n_channels=2, n_context=1, width=4, embedding=3),
    "window": lambda: WindowNetwork(GRAPH, 1, n_channels=2, width=4, depth=3, embedding=3, padding="reflect"),
    "vertex": lambda: VertexNetworks(GRAPH, 1, n_channels=2, widths=(4, 3), sparsity=9, bound=2.0, vertices=(2, 5)),
    "paper": lambda: PaperNetwork(GRAPH, 1, n_channels=2, widths=(4,), padding="absent"),
}


def subclasses(kind):
    return {kind}.union(*(subclasses(each) for each in kind.__subclasses__()))


def test_every_module_of_the_package_can_be_named_by_a_file():
    for found in pkgutil.walk_packages(nearfield.__path__, "nearfield."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    concrete = {kind for kind in subclasses(Module) if kind.__module__.startswith("nearfield.")}
    concrete = {kind for kind in concrete if not inspect.isabstract(kind) and kind is not Module}
    concrete = {kind.__name__: kind.__module__ for kind in concrete if not kind.__name__.startswith("_")}
    assert concrete.pop("MirroredGaussianScore") == "nearfield.reproduction.edge"  # of a known law, never fitted
    assert concrete == ours._LOCATIONS


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_rebuilt_with_all_its_settings_and_weights(make):
    network = make()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight += torch.randn(weight.shape, generator=generator)
    again = rebuild(describe(network), network.state_dict(), GRAPH)
    defaults = inspect.signature(type(network)).parameters
    assert set(defaults) - {"graph", "seed"} == set(network.settings)
    assert settings_of(again) == settings_of(network)
    assert any(settings_of(network)[name] != defaults[name].default for name in network.settings)
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert not any(weight.requires_grad for weight in again.parameters())


def test_a_network_in_double_precision_stays_so():
    network = WindowNetwork(GRAPH, 1, width=4).double()
    again = rebuild(describe(network), network.state_dict(), GRAPH)
    x, level = torch.ones(2, 12, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert torch.equal(again(x, None, level), network(x, None, level))


def test_a_predictive_law_is_rebuilt():
    rng = np.random.default_rng(0)
    field = GaussianField(sp.csr_array(np.tril(rng.normal(size=(3, 3))) + 3 * np.eye(3)), np.array([1, 2, 0]))
    law = PredictiveField(field, np.array([[0], [0], [1]]), rng.uniform(1, 2, (3, 1, 1)), 2.0, 7.0, 30)
    again = rebuild(describe(law), law.state_dict())
    x = rng.normal(size=(4, 3, 1))
    np.testing.assert_array_equal(again.log_prob(x), law.log_prob(x))


def test_missing_and_needless_tensors_are_refused():
    held = SparseMatrix.of(sp.eye_array(3, format="csr"))
    tensors = held.state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        rebuild(describe(held), tensors | {"more": torch.ones(1)})
    network = StencilNetwork(GRAPH, 1)
    with pytest.raises(RuntimeError, match="Missing key"):
        rebuild(describe(network), {k: v for k, v in network.state_dict().items() if k != "mix.bias"}, GRAPH)


def test_classes_that_are_not_ours_are_neither_written_nor_made():
    class Other(Network):
        def forward(self, x, context, c_noise):
            return x

    with pytest.raises(TypeError, match="a Other cannot be saved"):
        describe(Other(GRAPH, 0, 1, 0))
    with pytest.raises(TypeError, match="a Popen cannot be loaded"):
        rebuild({"class": "Popen", "settings": {}, "parts": {}}, {})
