r"""Laws whose truth is known, to measure a fitted model against.

A `Target` draws samples on a known graph. A `SolvedTarget` also knows its log-density and the exact denoiser of the
forward process :math:`x_t = a x_0 + s \xi`, :math:`a = e^{-t}`, :math:`s^2 = 1 - e^{-2t}`. Everything here is numpy in
float64 and uses no other part of the library but the graph, so that it can serve as oracle.

=====================  ============================================  =====================================
law                    what it is                                    what is known
=====================  ============================================  =====================================
`AutoregressiveChain`  Gaussian chain                                everything
`GaussianMarkovField`  Gaussian field of sparse precision            everything
`CoxIngersollRoss`     skewed, positive chain                        everything; denoiser by quadrature
`DoubleWellChain`      two-state chain                               everything, by quadrature
`DoubleWellLattice`    two-state field                               draws (Markov chain Monte Carlo)
`Lorenz96`             chaotic attractor on a ring                   draws (integration)
=====================  ============================================  =====================================
"""

from nearfield.data.target.autoregressive import AutoregressiveChain, chain_maximum_likelihood
from nearfield.data.target.base import SolvedTarget, Target
from nearfield.data.target.cox_ingersoll_ross import CoxIngersollRoss
from nearfield.data.target.double_well import DoubleWellChain
from nearfield.data.target.double_well_lattice import DoubleWellLattice, integrated_autocorrelation_time
from nearfield.data.target.gaussian import GaussianMarkovField, GaussianTarget
from nearfield.data.target.hidden_chain import HiddenChain
from nearfield.data.target.lorenz import Lorenz96

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
    "integrated_autocorrelation_time",
]
