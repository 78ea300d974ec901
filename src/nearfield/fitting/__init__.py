"""Fits, and the choice of what is fitted."""
