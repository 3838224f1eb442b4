"""Published methods that were not better in our measurements, or that few users need. The package is a plugin: it is
found by name, and no other package imports it."""
