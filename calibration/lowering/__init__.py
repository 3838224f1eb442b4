"""Lowering rewrites the prepared graph in int8, for each target."""
