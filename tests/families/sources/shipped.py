"""A shipped model: a UNet of 3.84 M trained parameters. Only the shipped models are not tiny."""

NAME = "fashion_mnist (shipped)"
SOURCE = "fashion_mnist"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0
