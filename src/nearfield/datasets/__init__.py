r"""Data that come with the library, and laws whose truth is known, to measure a fitted model against.

`gravel` and `north_america_temperature` load data; `README.txt` beside them says whose they are.

A `Target` draws samples on a known graph. A `SolvedTarget` also knows its log-density and the exact denoiser of the
forward process :math:`x_t = a x_0 + s \xi`, :math:`a = e^{-t}`, :math:`s^2 = 1 - e^{-2t}`. Everything here is numpy in
float64 and uses no other part of the library but the graph, so that it can serve as oracle.

=====================  ============================================  =====================================
law                    kind                                          known
=====================  ============================================  =====================================
`AutoregressiveChain`  Gaussian chain                                everything
`GaussianMarkovField`  Gaussian field of sparse precision            everything
`CoxIngersollRoss`     skewed, positive chain                        everything; denoiser by quadrature
`DoubleWellChain`      two-state chain                               everything, by quadrature
`DoubleWellLattice`    two-state field                               draws (Markov chain Monte Carlo)
`Lorenz96`             chaotic attractor on a ring                   draws (integration)
=====================  ============================================  =====================================
"""

from nearfield.datasets.autoregressive import AutoregressiveChain, chain_maximum_likelihood
from nearfield.datasets.base import SolvedTarget, Target
from nearfield.datasets.cox_ingersoll_ross import CoxIngersollRoss
from nearfield.datasets.double_well import DoubleWellChain
from nearfield.datasets.double_well_lattice import DoubleWellLattice, integrated_autocorrelation_time
from nearfield.datasets.embedded import gravel, north_america_temperature
from nearfield.datasets.gaussian import GaussianMarkovField, GaussianTarget
from nearfield.datasets.hidden_chain import HiddenChain
from nearfield.datasets.lorenz import Lorenz96

__all__ = [
    "AutoregressiveChain",
    "CoxIngersollRoss",
    "DoubleWellChain",
    "DoubleWellLattice",
    "GaussianMarkovField",
    "GaussianTarget",
    "HiddenChain",
    "Lorenz96",
    "SolvedTarget",
    "Target",
    "chain_maximum_likelihood",
    "gravel",
    "integrated_autocorrelation_time",
    "north_america_temperature",
]
