"""A shipped model: a UNet of 5.2 M trained parameters, a flow."""

from pathlib import Path

NAME = "cifar10 (shipped)"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0


def make(folder: Path) -> str:
    return "cifar10"
