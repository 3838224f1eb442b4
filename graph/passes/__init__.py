"""Passes are rewrites that preserve a graph's function, one a file: `def name(graph) -> graph`."""
