"""Tries by an attacker: random inputs with right values that were written first (docs: lab/measured/tries.md)."""
