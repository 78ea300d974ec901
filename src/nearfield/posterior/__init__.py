"""Sampling a density that is a sum of local factors, and companions of it: posteriors, lattice models."""

from nearfield.posterior.bridge import LocalizedSchroedingerBridge
from nearfield.posterior.density import Factors, LocalDensity
from nearfield.posterior.draws import Draws
from nearfield.posterior.gibbs import MALAWithinGibbs, MetropolisWithinGibbs
from nearfield.posterior.implicit import NetworkDataScore, PolynomialScore, langevin
from nearfield.posterior.stein import MessagePassingSVGD
from nearfield.posterior.subspace import LocalizedSubspace, localized_subspace

__all__ = [
    "Draws",
    "Factors",
    "LocalDensity",
    "LocalizedSchroedingerBridge",
    "LocalizedSubspace",
    "MALAWithinGibbs",
    "MessagePassingSVGD",
    "MetropolisWithinGibbs",
    "NetworkDataScore",
    "PolynomialScore",
    "langevin",
    "localized_subspace",
]
