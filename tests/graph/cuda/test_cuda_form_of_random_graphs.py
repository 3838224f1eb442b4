"""The forms of random graphs, with the operations that the pass handles, compared with the graphs."""

import random

import numpy as np
import pytest

from fewstep.graph.cuda.contrib_norm_definition import expand_contrib_norms
from fewstep.graph.cuda.cuda_form import cuda_form
from fewstep.graph.graph import Array, Graph
from fewstep.graph.session import run
from tests.graph.small_graphs import assert_close, feeds
from tests.onnx_text import graph_of_text

# Each text computes {o} from {x} and {z}, all of the same shape; {p} is unique. A text is picked by its rank.
BOTH = (
    "{o} = Tanh({x})",
    "{o} = Add({x}, {z})",
    "{o} = Mul({x}, row)",
    "{o} = Sub(channels, {x})",
    "{o} = Mul({x}, half)",
    "{o} = Softmax <axis = 2> ({x})",
    "{p}s = Sigmoid({x}) {o} = Mul({x}, {p}s)",
    "{p}g = Reshape({x}, groups) {p}i = InstanceNormalization <epsilon = 0.01> ({p}g, scales, shifts)"
    " {p}r = Reshape({p}i, whole) {p}m = Mul({p}r, channels) {o} = Add({p}m, channels)",
    "{p}e = Add({x}, {z}) {p}g = Reshape({p}e, groups) {p}i = InstanceNormalization({p}g, scales, shifts)"
    " {p}n = Reshape({p}i, whole) {p}s = Sigmoid({p}n) {p}m = Mul({p}n, {p}s) {o} = Add({p}m, {p}e)",
    "{o} = Conv <pads = [@pads]> ({x}, kernel)",
    "{p}c = Conv <pads = [@pads]> ({x}, kernel) {o} = Add({p}c, channels)",
    "{p}c = Concat <axis = 1> ({x}, {z}) {o} = Conv({p}c, mix)",
    "{p}c = Concat <axis = 2> ({x}, {z}) {o} = Conv <strides = [@strides], pads = [@first]> ({p}c, kernel)",
    "{p}u = Resize <mode = \"nearest\"> ({x}, , factors)"
    " {o} = Conv <strides = [@twice], pads = [@pads]> ({p}u, kernel)",
    "{p}u = Resize <mode = \"nearest\"> ({x}, , empty, same) {o} = Tanh({p}u)",
    "{p}t = Transpose ({x}) {p}a = Tanh({p}t) {o} = Transpose({p}a)",
)  # fmt: skip
IMAGES = (
    "{p}f = Reshape({x}, flat) {p}t = Transpose <perm = [0, 2, 1]> ({p}f) {p}w = MatMul({p}t, square)"
    " {p}b = Transpose <perm = [0, 2, 1]> ({p}w) {o} = Reshape({p}b, whole)",
    "{p}f = Reshape({x}, flat) {p}t = Transpose <perm = [0, 2, 1]> ({p}f) {p}b = Transpose <perm = [0, 2, 1]> ({p}t)"
    " {p}y = Reshape({p}b, copied) {o} = Add({p}y, {x})",
    "{p}q = Transpose <perm = [0, 2, 3, 1]> ({x}) {p}f = Transpose <perm = [0, 3, 1, 2]> ({p}q) {o} = Tanh({p}f)",
    "{p}q = Transpose <perm = [0, 2, 3, 1]> ({x}) {p}f = Transpose <perm = [0, 3, 1, 2]> ({p}q)"
    " {p}r = Transpose <perm = [0, 2, 3, 1]> ({p}f) {p}w = MatMul({p}r, square)"
    " {p}h = Transpose <perm = [0, 3, 1, 2]> ({p}w) {o} = Add({p}f, {p}h)",
    "{p}f = Reshape({x}, flat) {p}t = Transpose <perm = [0, 2, 1]> ({p}f) {p}s = MatMul({p}t, {p}f)"
    " {p}a = Softmax({p}s) {p}v = MatMul({p}a, {p}t) {p}b = Transpose <perm = [0, 2, 1]> ({p}v)"
    " {o} = Reshape({p}b, whole)",
)  # fmt: skip
SEQUENCES = (
    *(
        "{p}q = Reshape({x}, " + shape + ") {p}c = Conv({p}q, wide) {p}a = Relu({p}c) {o} = Reshape({p}a, whole)"
        for shape in ("column", "column_copied", "column_rest", "line")
    ),
    "{p}t = Transpose <perm = [0, 2, 1]> ({x}) {p}w = MatMul({p}t, square) {o} = Transpose <perm = [0, 2, 1]> ({p}w)",
    "{p}t = Transpose <perm = [0, 2, 1]> ({x}) {p}k = Transpose <perm = [0, 2, 1]> ({p}t) {p}s = MatMul({p}t, {p}k)"
    " {p}a = Softmax({p}s) {p}v = MatMul({p}a, {p}t) {o} = Transpose <perm = [0, 2, 1]> ({p}v)",
)  # fmt: skip
LENGTH = 8  # operations after the first norm


def random_graph(seed: int) -> Graph:
    """A convolution, a GroupNorm and LENGTH random operations, each on one of the last tensors."""
    choose = random.Random(seed)
    sides = choose.choice([(6, 4), (8,)])
    texts = (*BOTH, *(IMAGES if len(sides) == 2 else SEQUENCES))
    steps = ["{p}c = Conv <pads = [@pads]> ({x}, first) " + BOTH[7].replace("{x}", "{p}c")]
    steps += [choose.choice(texts) for _ in range(LENGTH)]
    made, body = ["x"], []
    for number, step in enumerate(steps):
        x, z = made[max(0 if number < 1 else 1, len(made) - choose.randint(1, 2))], choose.choice(made[1:] or ["x"])
        made.append(f"t{number}")
        body.append(step.format(x=x, z=z, o=made[-1], p=f"n{number}_"))
    rank, size = len(sides), int(np.prod(sides))
    lists = {
        "pads": [1] * 2 * rank,
        "strides": [2, *[1] * (rank - 1)],
        "first": [1] * 2 * rank,
        "twice": [2] * rank,
    }
    text = " ".join(body)
    for name, values in lists.items():
        text = text.replace(f"@{name}", ", ".join(map(str, values)))
    ones = (1,) * rank
    shape = {"c": 8, "ones": ", ".join(map(str, ones)), "sides": ", ".join(map(str, sides))}
    head = "(float[batch, 3, {sides}] x, float[batch, {c}, {ones}] row) => (float[batch, {c}, {sides}] y)"
    numbers = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return numbers.standard_normal(shape).astype(np.float32)

    constants = {
        "first": normal(8, 3, *(3,) * rank),
        "kernel": normal(8, 8, *(3,) * rank) / 8,
        "mix": normal(8, 16, *ones) / 4,
        "wide": normal(8, 8, 1, 1) / 3,
        "square": normal(8, 8) / 3,
        "channels": normal(1, 8, *ones),
        "half": np.float32(0.5),
        "scales": np.float32([0.5, 2]),
        "shifts": np.float32([-1, 1]),
        "factors": np.float32([1, 1, *[2] * rank]),
        "empty": np.float32([]),
        "same": np.int64([2, 8, *sides]),
        "groups": np.int64([0, 2, 4 * size]),
        "whole": np.int64([0, 8, *sides]),
        "copied": np.int64([0, 0, *sides]),
        "flat": np.int64([0, 8, size]),
        "column": np.int64([0, 8, size, 1]),
        "column_copied": np.int64([0, 8, 0, 1]),
        "column_rest": np.int64([0, 0, 0, -1]),
        "line": np.int64([0, 8, 2, -1]),
    }
    text = f"{head.format(**shape)} {{ {text} y = Add({made[-1]}, {choose.choice(made[1:])}) }}"
    words = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    return graph_of_text(text, **{name: array for name, array in constants.items() if name in words})


@pytest.mark.parametrize("seed", range(50))
def test_the_form_of_a_random_graph_is_the_same_function(seed: int) -> None:
    graph = random_graph(seed)
    form = cuda_form(graph)
    assert "GroupNorm" in form.ops() or "SkipGroupNorm" in form.ops()
    given = feeds(graph, 2, seed)
    assert_close(run(graph, given), run(expand_contrib_norms(form), given), 1e-5)
