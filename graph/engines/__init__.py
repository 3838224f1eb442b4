"""Build engines from a bundle's graphs, for this device or ahead of time for others."""
