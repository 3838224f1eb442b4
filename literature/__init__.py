"""Published methods that lost or that few need. It is a plugin: found by name, and no other package imports it."""
