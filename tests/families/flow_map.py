"""A network that is told two times (MeanFlow, Geng et al. 2025; also shortcut and trajectory models): the example's."""

from pathlib import Path

NAME = "Flow map told two times (MeanFlow)"
PLAN = "ctm:2"
GUIDANCE = 1.5


def make(folder: Path) -> str:
    return f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'flow_map.py'}:make"
