"""Sampling a density that is a sum of local factors: posteriors of inverse problems, lattice models."""

from nearfield.posterior.density import Factors, LocalDensity
from nearfield.posterior.draws import Draws
from nearfield.posterior.gibbs import MALAWithinGibbs, MetropolisWithinGibbs

__all__ = ["Draws", "Factors", "LocalDensity", "MALAWithinGibbs", "MetropolisWithinGibbs"]
