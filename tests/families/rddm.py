"""A restoration U-Net of two outputs, residual and noise (RDDM, Liu et al. 2024): that of the example."""

from pathlib import Path

NAME = "RDDM (restoration U-Net, two outputs)"
PLAN = "rddm:3"


def make(folder: Path) -> str:
    return f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'restoration.py'}:make_rddm"
