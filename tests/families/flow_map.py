"""A network that takes two times (MeanFlow, Geng et al. 2025; also shortcut and trajectory models): the example's."""

NAME = "Flow map with two times (MeanFlow)"
SOURCE = "docs/examples/flow_map.py:make"
PLAN = "ctm:2"
GUIDANCE = 1.5
