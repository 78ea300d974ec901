"""Scores: what every one is, the closed forms for Gaussian data, and networks."""
