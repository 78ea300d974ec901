"""Scores: what every one is, and the closed forms for Gaussian data."""
