"""Fit the numbers of a plan to a denoiser."""
