"""The shipped model: a UNet of 2.7 M trained parameters, the only one here that is not tiny."""

from pathlib import Path

NAME = "fashion_mnist (shipped)"
PLAN = "dpmpp_2m:2"
GUIDANCE = 2.0


def make(folder: Path) -> str:
    return "fashion_mnist"
