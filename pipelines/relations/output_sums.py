"""Sums of an encoder's outputs, with or without a layer norm of each, such as LongCat's of its embeddings and its last
hidden states."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

EPSILONS = (None, 1e-5, 1e-6)  # None: without a norm
MOST_TERMS = 2


@dataclass(frozen=True)
class OutputSum:
    """The sum of the outputs [..., columns] under these paths. With `epsilon`, each is normalized along the columns
    first, without weights."""

    paths: tuple[str, ...]
    epsilon: float | None

    def read(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the sum."""
        first, *others = (_normalize(outputs[path], self.epsilon) for path in self.paths)
        for term in others:
            first = first + term
        return first


Output = str | OutputSum  # an output by its path, or a sum of some


def paths_of(output: Output) -> tuple[str, ...]:
    """Return the paths of the outputs that are read."""
    return (output,) if isinstance(output, str) else output.paths


def read_output(outputs: Mapping[str, Tensor], output: Output) -> Tensor:
    """Return an output, or a sum of outputs, of an encoder."""
    return outputs[output] if isinstance(output, str) else output.read(outputs)


def find_sum(target: Tensor, outputs: Mapping[str, Tensor]) -> OutputSum | None:
    """Return the sum of outputs [rows, columns] that a target [rows, columns] equals, or None."""
    alike = {path: output for path, output in outputs.items() if output.shape == target.shape and len(output)}
    rows = {path: output[:1] for path, output in alike.items()}
    sums = (total for total in _list_sums(alike) if torch.equal(total.read(rows), target[:1]))  # one row is fast
    return next((total for total in sums if torch.equal(total.read(alike), target)), None)


def _list_sums(paths: Mapping[str, Tensor]) -> Iterator[OutputSum]:
    for epsilon in EPSILONS:
        for count in range(1, MOST_TERMS + 1):
            yield from (OutputSum(terms, epsilon) for terms in combinations(paths, count))


def _normalize(output: Tensor, epsilon: float | None) -> Tensor:
    return output if epsilon is None else layer_norm(output, output.shape[-1:], eps=epsilon)
