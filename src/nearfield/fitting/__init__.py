"""Fits, and the choice of their settings."""
