"""A shipped model: a UNet of 3.84 M trained parameters. The shipped ones alone are not tiny."""

from pathlib import Path

NAME = "fashion_mnist (shipped)"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0


def make(folder: Path) -> str:
    return "fashion_mnist"
