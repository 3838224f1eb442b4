"""The labels of a pipeline's call, such as the classes of DiT: lists of integers that its network looks up."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

LABELS = "labels"  # a variant
INTEGERS = "list[int]"  # in an annotation
TIMES = ("timesteps",)  # other lists of integers of many calls, which some networks have too


def make_labels(pipeline: Any, takes: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the label 0 for each argument of a call that is a list of integers and no times. It either has no default,
    or the name of an argument of one of the networks: without it, such a call may draw labels at random."""
    networks = [type(network) for network in vars(pipeline).values() if isinstance(network, nn.Module)]
    own = {name for network in networks for name in inspect.signature(network.forward).parameters}
    return {
        name: [0]
        for name, argument in takes.items()
        if name not in TIMES
        and INTEGERS in str(argument.annotation).lower()
        and (argument.default is argument.empty or name in own)
    }


def change_labels(usual: Mapping[str, Any], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the variant of a call with other labels: 0 or 1 in place of each; empty if it has none of these names."""
    others = {name: _change(usual[name]) for name in names if isinstance(usual[name], int | list)}
    return {LABELS: others} if others else {}


def _change(labels: Any) -> Any:
    return [_change(label) for label in labels] if isinstance(labels, list) else int(labels == 0)


def join_labels(usual: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the labels of two samples, from those of a call and its variant."""
    pairs = {name: (usual[name], other) for name, other in others.items()}
    return {name: [*own, *other] if isinstance(own, list) else [own, other] for name, (own, other) in pairs.items()}
