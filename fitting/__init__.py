"""Fit the coefficients and times of a plan to a denoiser."""
