"""Coordinates of atoms from a trunk's embedding (Protenix-Mini, Gong et al. 2025): those of the example."""

NAME = "Structures [N, 3] (AlphaFold 3's diffusion)"
SOURCE = "docs/examples/structures.py:make"
PLAN = "edm_euler:2@karras(sigma_min=55.9748)"
