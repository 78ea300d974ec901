"""Dependency graphs: which components of a field depend directly on which."""

from nearfield.graph.coordinate import Metric
from nearfield.graph.dependency import DependencyGraph
from nearfield.graph.lattice import Lattice
from nearfield.graph.neighborhood import Neighborhood

__all__ = ["DependencyGraph", "Lattice", "Metric", "Neighborhood"]
