"""The literature: methods that lost, or that few ask for. It is a plugin: no room imports it, and names find it."""
