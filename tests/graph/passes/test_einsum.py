"""Einsum as the operations it stands for."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.graph.graph import Graph
from fewstep.graph.passes.einsum import expand_einsum
from tests.graph.small import assert_same, node, small, value

SIZES: dict[str, int | str] = {"b": "batch", "h": 2, "i": 3, "j": 4, "d": 5, "e": 6}


def einsum(equation: str, *constant: str) -> Graph:
    """One Einsum; `constant` operands are weights."""
    given, made = equation.split("->")
    shapes = {f"t{n}": [SIZES[axis] for axis in term.replace(" ", "")] for n, term in enumerate(given.split(","))}
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shapes[name]) for name in constant}
    return small(
        [value(name, *shape) for name, shape in shapes.items() if name not in weights],
        [value("y", *(SIZES[axis] for axis in made.replace(" ", "")))],
        [node("Einsum", " ".join(shapes), "y", equation=equation)],
        **weights,
    )


@pytest.mark.parametrize(
    ("equation", "ops"),
    [
        ("bijde->bdiej", "Transpose"),
        ("bhid,bhdj->bhij", "MatMul"),
        ("b h i d, b h j d -> b h i j", "Transpose MatMul"),
        ("bdi,bdj->bij", "Transpose MatMul"),
        ("bij,bdj->bdi", "Transpose MatMul Transpose"),
        ("bihd,bjhd->bhij", "Transpose Transpose MatMul"),
    ],
)
def test_a_permutation_or_a_product_is_written_out(equation: str, ops: str) -> None:
    before = einsum(equation)
    after = expand_einsum(before)
    assert sorted(after.ops()) == sorted(ops.split())
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize("equation", ["bhid,de->bhie", "bhid,de->behi", "de,bid->bie", "bhid,ed->bhie"])
def test_a_product_with_a_weight(equation: str) -> None:
    before = einsum(equation, "t0" if equation.startswith("de") else "t1")
    after = expand_einsum(before)
    assert after.ops().count("MatMul") == 1 and "Einsum" not in after.ops()
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize(
    ("equation", "constant"),
    [
        ("bdhi,bdje->bhije", ""),  # attention over pictures, as score_sde writes it
        ("bhije,bdje->bdhi", ""),
        ("bhij,bijd->bhd", ""),
        ("bihd,hde->bie", "t1"),  # projections of all heads at once
        ("bid,dhe->bihe", "t1"),
        ("bid,dhe->bhie", "t1"),
        ("hde,bihd->bie", "t0"),
        ("dhe,bid->bihe", "t0"),
    ],
)
def test_axes_are_joined_to_one(equation: str, constant: str) -> None:
    before = einsum(equation, *filter(None, [constant]))
    after = expand_einsum(before)
    (product,) = (node for node in after.nodes if node.op == "MatMul")
    assert {"MatMul", "Reshape"} <= set(after.ops()) <= {"MatMul", "Reshape", "Transpose"}
    assert not constant or product.inputs[1].startswith(f"y_{constant}")  # where int8 looks for the weight
    assert_same(before, after, rtol=1e-5)


@pytest.mark.parametrize(
    ("equation", "plain"), [("...id,de->...ie", "bhid,de->bhie"), ("b...d,b...e->bd...e", "bhid,bhie->bdhie")]
)
def test_dots_stand_for_axes(equation: str, plain: str) -> None:
    before = einsum(plain, *["t1"] * plain.startswith("bhid,de"))
    dotted = replace(before.nodes[0], attributes={"equation": equation})
    after = expand_einsum(before.with_nodes([dotted]))
    assert after.ops() == expand_einsum(before).ops()
    assert_same(before, after, rtol=1e-6)


def test_axes_of_two_free_sizes_stay_apart() -> None:
    free: list[int | str] = ["batch", 5, "height", "width"]
    before = small(
        [value("q", *free), value("k", "batch", 5, 3, 4)],
        [value("y", "batch", "height", "width", 3, 4)],
        [node("Einsum", "q k", "y", equation="bdhi,bdje->bhije")],
    )
    assert expand_einsum(before).nodes == before.nodes


@pytest.mark.parametrize("equation", ["bi->b", "bi,bi->b", "bid,bid->bi", "bi,bj->bij", "bid,dhe->bie"])
def test_what_is_neither_stays(equation: str) -> None:
    before = einsum(equation)
    assert expand_einsum(before).nodes == before.nodes
