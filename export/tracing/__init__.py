"""Replacements for what torch cannot trace or export directly: complex tensors, short lists of numbers, arithmetic on
sizes."""
