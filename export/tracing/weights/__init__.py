"""Weights of a torch module while it is traced: in a mapped file, or computed from others."""
