"""The denoiser D(x, sigma) of EDM (Karras et al. 2022), with its preconditioning inside: that of the example."""

from pathlib import Path

NAME = "EDM, preconditioned D(x, sigma)"
PLAN = "dpmpp_2m:2@karras"
GUIDANCE = 1.5


def make(folder: Path) -> str:
    return f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'edm.py'}:make_preconditioned"
