"""Scores: their contract, the closed forms for Gaussian data, and networks."""
