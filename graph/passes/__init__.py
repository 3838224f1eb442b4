"""Passes are rewrites that preserve a graph's function, one per file: `def name(graph) -> graph`."""
