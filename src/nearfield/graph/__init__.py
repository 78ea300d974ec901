"""Dependency graphs: which components of a field depend directly on which."""

from nearfield.graph.dependency import DependencyGraph, Lattice, Metric, Neighborhood

__all__ = ["DependencyGraph", "Lattice", "Metric", "Neighborhood"]
