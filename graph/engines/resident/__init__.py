"""Runs whose state stays where an engine computes: nothing of it crosses to the host between two steps."""
