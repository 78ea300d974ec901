"""Reverse diffusion."""
