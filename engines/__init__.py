"""From a bundle's graphs to engines, for this device or ahead of time for others."""
