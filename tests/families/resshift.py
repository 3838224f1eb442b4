"""A conditional restoration U-Net as ResShift trains one (Yue et al. 2023): that of the example."""

from pathlib import Path

NAME = "ResShift (restoration U-Net)"
PLAN = "resshift:4"


def make(folder: Path) -> str:
    return f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'restoration.py'}:make_resshift"
