"""Labelled data in and out, and model files."""
