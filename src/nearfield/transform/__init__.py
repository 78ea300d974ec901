"""Transforms of values: from data in their units to standardised ones, and back."""
