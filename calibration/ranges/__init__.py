"""Ranges are taken from watched activations: histograms, methods that clip them, and the resulting table."""
