"""Function-preserving rewrites, one file each: `def name(graph) -> graph`."""
