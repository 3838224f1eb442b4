"""GroupNorm without a Reshape of pictures, compared with the form that has it."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.graph.graph import Extent, Graph
from fewstep.graph.passes.group_norm import LEAST, expand_group_norm
from fewstep.graph.session import run
from tests.graph.small_graphs import assert_same, feeds, node, value
from tests.onnx_text import graph_of_text

SHAPE = (6, 40, 50)
SPREAD = ("ReduceMean", "Reshape", "ReduceMean", "Expand", "Reshape")


def group_norm(
    shape: tuple[int | str, ...] = SHAPE, scale: float = 1.0, shift: float = 0.0, **attributes: float
) -> Graph:
    sizes, epsilon = (
        ", ".join(map(str, shape)),
        ", ".join(f"{name}={attribute}" for name, attribute in attributes.items()),
    )
    return graph_of_text(
        f"""(float[batch, {sizes}] x) => (float[batch, {sizes}] y) {{
            grouped = Reshape(x, groups)
            normal = InstanceNormalization{f"<{epsilon}>" if epsilon else ""}(grouped, scales, shifts)
            shape = Shape(x) y = Reshape(normal, shape)
        }}""",
        groups=np.int64([0, 2, -1]),
        scales=[float(scale)] * 2,
        shifts=[float(shift)] * 2,
    )


@pytest.mark.parametrize("attributes", [{}, {"epsilon": 1e-2}], ids=str)
@pytest.mark.parametrize("shape", [SHAPE, (4, 10, 20, 30)], ids=["picture", "volume"])
def test_it_is_the_same_function(shape: tuple[int, ...], attributes: dict[str, float]) -> None:
    before = group_norm(shape, **attributes)
    after = expand_group_norm(before)
    squares = ("ReduceL2", "Mul", "Mul", *SPREAD[1:])
    assert after.ops() == ("Shape", *SPREAD, "Sub", *squares, "Add", "Sqrt", "Div")
    assert_same(before, after, rtol=1e-6)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    """x = 1000 + noise: squares before the mean is subtracted would lose all of its variance."""
    before = group_norm()
    x = 1000 + feeds(before, 3)["x"]
    found = run(expand_group_norm(before), {"x": x})["y"].astype(np.float64)
    groups = x.astype(np.float64).reshape(3, 2, -1)
    exact = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found.reshape(groups.shape), exact, atol=2e-4)  # float32 holds 1000 to 3e-5


WHOLE = group_norm()
STAY = {
    "a small picture": group_norm((6, 40, LEAST // 240 - 1)),
    "a sequence": group_norm((6, LEAST)),
    "a scale of its own": group_norm(scale=2.0),
    "a shift of its own": group_norm(shift=0.5),
    **{
        f"{name}, which others read": replace(WHOLE, outputs=(*WHOLE.outputs, value(name, "batch", 2, 6000)))
        for name in ("grouped", "normal")
    },
    "another shape, of as many numbers": replace(
        WHOLE,
        outputs=(value("y", "batch", 12, 20, 50),),
        constants={**WHOLE.constants, "other": np.array([0, 12, 20, 50])},
        nodes=(*WHOLE.nodes[:2], node("Reshape", "normal other", "y")),
    ),
}


@pytest.mark.parametrize("before", STAY.values(), ids=STAY)
def test_small_pictures_and_other_forms_stay(before: Graph) -> None:
    assert expand_group_norm(before).nodes == before.nodes
    assert "InstanceNormalization" not in expand_group_norm(group_norm((6, 40, LEAST // 240))).ops()


def test_free_sizes_count_as_the_usual_ones() -> None:
    extents = {"height": Extent(40, 8, 80, 8), "width": Extent(56, 8, 80, 8)}
    before = replace(group_norm((6, "height", "width")), extents=extents)
    after = expand_group_norm(before)
    assert "InstanceNormalization" not in after.ops() and "ReduceL2" not in after.ops()
    x = np.random.default_rng(0).standard_normal((2, 6, 16, 24)).astype(np.float32)
    np.testing.assert_allclose(run(after, {"x": x})["y"], run(before, {"x": x})["y"], atol=1e-6)


@pytest.mark.parametrize("groups", [(0, 4, -1), (-1, 2, 3000)], ids=["split-channels", "split-samples"])
def test_one_whose_groups_cut_channels_or_samples_stays(groups: tuple[int, int, int]) -> None:
    """Both have groups of one and a half channels, of 2000 numbers each."""
    before = group_norm()
    ones = np.ones(groups[1], np.float32)
    changed = {"groups": np.array(groups), "scales": ones, "shifts": 0 * ones}
    before = replace(before, constants={**before.constants, **changed})
    assert expand_group_norm(before).nodes == before.nodes
    x = feeds(before, 2)["x"]
    found = run(before, {"x": x})["y"].reshape(2, 4, 3000)
    np.testing.assert_allclose(found.mean(2), np.zeros((2, 4)), atol=1e-5)
