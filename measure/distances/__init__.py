"""Distances between a body's samples and the float32 body's, sample by sample and as distributions."""
