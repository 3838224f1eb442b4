"""A shipped model: a UNet of 5.2 M trained parameters, a flow."""

NAME = "cifar10 (shipped)"
SOURCE = "cifar10"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0
