"""A raw EDM network (Karras et al. 2022) with class labels: that of the example."""

from pathlib import Path

NAME = "EDM, raw network"
PLAN = "edm_heun:2@karras"
GUIDANCE = 1.5


def make(folder: Path) -> str:
    return f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'edm.py'}:make"
