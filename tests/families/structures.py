"""Coordinates of atoms from a trunk's embedding (Protenix-Mini, Gong et al. 2025): those of the example."""

from pathlib import Path

NAME = "Structures [N, 3] (AlphaFold 3's diffusion)"
PLAN = "edm_euler:2@karras"


def make(folder: Path) -> str:
    return f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'structures.py'}:make"
