"""The contents that a Spec refuses, in one line that names the field, and those that it keeps."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fewstep.export import Carried, Condition, NamedOutput, Policy, Positions, ScheduleSpec, Size, Spec, Vocabulary
from fewstep.export.spec import CHECKS
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.spec import DenoiserFacts
from tests.export.networks import carrying_denoiser, named_outputs_denoiser, per_position_time_denoiser, token_denoiser
from tests.refusals import refuses

Fields = dict[str, Any]
FLOW = {"prediction": "flow", "schedule": ScheduleSpec("flow")}
HEIGHT = {"name": "height", "axis": 1, "low": 8, "high": 32, "multiple": 8}


def plain(**changes: Any) -> Spec:
    v = {"prediction": "v", "schedule": ScheduleSpec("linear")}
    return Spec(**{"name": "s", "x_shape": (1,), "conditions": ()} | v | changes)


def spec_of_free_height(**changes: Any) -> Spec:
    """Return a spec with a free height, other fields, or conditions that follow it."""
    size = Size(**HEIGHT | {name: value for name, value in changes.items() if name in HEIGHT})
    others = {name: value for name, value in changes.items() if name not in HEIGHT}
    return plain(x_shape=(1, 16, 16), sizes=(size,), **others)


def policy(shapes: Iterable[tuple[int, ...]], **rhythm: Any) -> Spec:
    """Return a policy of three observations, with conditions of these shapes."""
    seen = enumerate(shapes)
    of = [Condition(f"seen{at}", f"seen{at}", shape, "float32", typical=(-1.0, 1.0)) for at, shape in seen]
    return plain(
        x_shape=(8, 3), conditions=of, policy=Policy(**{"observations": 3, "first": 0, "actions": 4, **rhythm})
    )


def one(name: str = "c", input: str = "c", shape: tuple[int, ...] = (), dtype: str = "int64", **more: Any) -> Fields:
    """Return a spec with one condition."""
    return {"conditions": (Condition(name, input, shape, dtype, **more),)}


def label(name: str = "c", input: str = "c", **more: Any) -> Fields:
    return one(name, input, **{"low": 0, "high": 1, **more})


def following(shape: tuple[int, ...], follows: dict[int, str], **more: Any) -> Fields:
    return one(shape=shape, dtype="float32", follows=follows, **more)


REFUSED: list[tuple[Callable[..., Spec], Fields, str]] = [
    (plain, {"x_shape": ()}, "'x_shape'"),
    (plain, {"x_shape": (1.5,)}, "spec 's' .*Expected `int`"),
    (plain, {"x_shape": "big"}, "'x_shape' of spec 's' is wrong: .*got `str`"),
    (plain, {"conditions": ("a",)}, r"'conditions' of spec 's' is wrong: .*conditions\[0\]"),
    (plain, {"conditions": (Condition("y", "y", default=2),)}, r"at `conditions\[0\].default`; .* flat tuple, such as"),
    (plain, {"schedule": "linear"}, "'schedule' of spec 's' is wrong"),
    (plain, {"schedule": ScheduleSpec("triangle")}, "spec 's' .*'triangle'"),
    (plain, {"schedule": ScheduleSpec("linear", 0)}, "timesteps 0"),
    (plain, {"prediction": "eps"}, "spec 's' .*'eps'"),
    (plain, FLOW | {"prediction": "v"}, "prediction v needs"),
    (plain, {"prediction": "flow"}, "prediction flow needs"),
    (plain, FLOW | {"prediction": "epsilon"}, "an epsilon prediction on schedule flow.*; use a denoiser that predicts"),
    (
        plain,
        {"data_limit": 0.0},
        "field 'data_limit' of spec 's': 0 is not a positive number; give the largest",
    ),
    (plain, {"distilled": "yes"}, "field 'distilled' of spec 's' is wrong: .*; give True for a network"),
    (plain, {"to": "time"}, "two tensors named 'time'"),
    (plain, one(), "no bounds"),
    (plain, one(dtype="uint8"), "no bounds"),
    (plain, one(dtype="double"), "spec 's' .*'double'"),
    (plain, one(dtype="float32", null=float("nan")), "'null' .*: nan is not a valid float32"),
    (plain, one(shape=(-1,), dtype="float32"), "'shape' .*: .-1. is not a shape"),
    (plain, label(input="time"), "two inputs named 'time'"),
    (plain, label(input="carried_c"), "has a condition with the input 'carried_c'"),
    (plain, label(low=1, high=3, labels=("a", "b", "c")), "condition 'c' of spec 's' has 3 labels, and none for 3;"),
    (plain, label(null=10, shared=True), "condition 'c' of spec 's' is shared and has a null value; leave out null"),
    (plain, label(low=3), "'low' of condition 'c' of spec 's': 3 is above"),
    (plain, label(dtype="uint8", high=300), "'high' .*: 300 is not a valid uint8"),
    (plain, label(low=0.5), r"'low' .*: 0\.5 is not a valid int64"),
    (plain, label(""), "has the invalid name ''"),
    (plain, label(input="a\nb"), r"has the invalid name 'a\\nb'"),
    (
        plain,
        {"conditions": [*label()["conditions"], *label(input="d")["conditions"]]},
        "two conditions named 'c'; rename",
    ),
    (plain, label() | {"x": "c"}, "spec 's' has two tensors named 'c'"),
    (plain, label() | {"time": "c"}, "spec 's' has two tensors named 'c'"),
    (plain, label() | {"output": "c"}, "spec 's' has two tensors named 'c'"),
    (plain, label() | {"x": "a", "time": "a"}, "spec 's' has two tensors named 'a'"),
    (plain, FLOW | {"grid": "spiral"}, "field 'grid' of spec 's': .*unknown grid 'spiral'"),
    (plain, FLOW | {"grid": "lcm"}, "field 'grid' of spec 's': grid lcm needs timesteps, which schedule flow-1000"),
    (plain, FLOW | {"grid": "custom(times=[2000, 500])"}, "field 'grid' of spec 's': time 2000 is outside"),
    (plain, FLOW | {"grid": ""}, "field 'grid' of spec 's' is empty; give a grid such as 'trailing', or leave it out"),
    (
        plain,
        FLOW | {"grid": 8},
        "field 'grid' of spec 's' is wrong: .*; give a grid such as 'trailing', or leave it out",
    ),
    (spec_of_free_height, {"multiple": 3}, "field 'sizes' of spec 's': height: low 8 is not a multiple of 3"),
    (spec_of_free_height, {"low": 24}, "x_shape's 16 is not a multiple of 8 from 24 to 32"),
    (spec_of_free_height, {"axis": 3}, r"x_shape \[1, 16, 16\] has no axis 3"),
    (spec_of_free_height, {"name": "1st"}, "a name consists of letters"),
    (plain, {"sizes": ({"name": "height"},)}, "field 'sizes' of spec 's' is wrong"),
    (spec_of_free_height, following((1, 16, 16), {1: "height/3"}), "'height/3' is not always"),
    (spec_of_free_height, following((1, 16, 16), {1: "height*2"}), r"axis 1 is 16, but height\*2 is 32 by default"),
    (spec_of_free_height, following((16,), {1: "height"}), r"shape \[16\] has no axis 1"),
    (spec_of_free_height, following((16,), {0: "height"}, default=(0.0,) * 16), "has a fixed shape"),
    (
        carrying_denoiser.spec,
        {"carried": [{"name": "a b", "shape": [2]}]},
        "field 'carried' of spec 'causal': 'a b' of shape",
    ),
    (carrying_denoiser.spec, {"carried": [{"name": "a", "shape": [0]}]}, r"'a' of shape \[0\]"),
    (carrying_denoiser.spec, {"carried": [{"name": "a", "shape": [2]}] * 2}, "two tensors are named 'a'"),
    (
        carrying_denoiser.spec,
        {"carried": [{"name": "a", "shape": [2], "bank": "run"}]},
        "field 'carried' of spec .* is wrong",
    ),
    (carrying_denoiser.spec, label(input="next_past"), "two inputs named 'next_past'; rename the condition's input"),
    (named_outputs_denoiser.spec, {"outputs": (NamedOutput("depth", (0,)),)}, "'depth' of shape"),
    (
        named_outputs_denoiser.spec,
        {"outputs": (NamedOutput("depth", (1,)), NamedOutput("depth", (2,)))},
        "named 'depth'",
    ),
    (named_outputs_denoiser.spec, {"outputs": ({"name": "depth"},)}, "field 'outputs'"),
    (per_position_time_denoiser.spec, {"positions": Positions(5, 2)}, "no axis 5"),
    (per_position_time_denoiser.spec, {"positions": Positions(0, 3)}, "leaves=3.*do not divide 8"),
    (per_position_time_denoiser.spec, {"positions": Positions(0, 2, kept=8)}, "kept=8"),
    (per_position_time_denoiser.spec, {"to": "to"}, "time for each position.*second time"),
    (per_position_time_denoiser.spec, {"carried": (Carried("past", (2,)),)}, "time for each position.*carried"),
    (per_position_time_denoiser.spec, {"sizes": (Size("places", 0, 4, 16, 4),)}, "time for each position.*sizes"),
    (token_denoiser.spec, {"scheduler": {"_class_name": "DDIMScheduler"}}, "DDIMScheduler is not a token scheduler"),
    (
        token_denoiser.spec,
        {"scheduler": {"_class_name": "BlockRefinementScheduler", "block_length": 0}},
        "block_length 0, minimal_topk",
    ),
    (token_denoiser.spec, {"vocabulary": None}, "predicts logits needs a vocabulary"),
    (token_denoiser.spec, {"prediction": "flow"}, "predicts flow has a vocabulary; .*, or neither"),
    (token_denoiser.spec, {"schedule": ScheduleSpec("cosine")}, "prediction logits needs a schedule"),
    (token_denoiser.spec, {"vocabulary": Vocabulary(1, 0)}, "a vocabulary of 1 ids"),
    (token_denoiser.spec, {"carried": (Carried("keys", (4,)),)}, "a token denoiser cannot have carried tensors"),
    (
        token_denoiser.spec,
        {"outputs": (NamedOutput("depth", (4,)),), "sizes": ()},
        "a token denoiser cannot have named outputs",
    ),
    (token_denoiser.spec, {"to": "to"}, "a denoiser with a vocabulary cannot have a second time; leave out"),
    (token_denoiser.spec, {"grid": "trailing"}, "spec 'coded' predicts logits and has a grid; leave the grid out"),
    (policy, {"shapes": [(2, 6)]}, r"no condition has 3 observations along its first axis: 'seen0' \[2, 6\]"),
    (policy, {"shapes": [(2, 6), (6, 3, 4, 4)]}, "no condition has 3 observations along its first axis: 'seen0'"),
    (policy, {"shapes": [(2, 6), ()]}, "no condition has 3 observations along its first axis: 'seen0'"),
    (partial(policy, [(3, 6)]), {"discrete": [2]}, r"Expected `dict`, got `tuple`.*discrete={PLACE: \(VALUE, VALUE\)}"),
    (partial(policy, [(3, 6)]), {"discrete": {2: 1.0}}, r"Expected `tuple`, got `float`.*policy\.discrete.*discrete="),
]


@pytest.mark.parametrize(("make", "changes", "says"), REFUSED)
def test_a_spec_names_what_is_wrong_with_it(make: Callable[..., Spec], changes: Fields, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(**changes)


@pytest.mark.parametrize("shapes", [[(3, 6)], [(3, 6), (2,)], [(18,)], [], [()]])
def test_observations_may_be_stacked_in_one_row_or_in_x(shapes: list[tuple[int, ...]]) -> None:
    assert len(policy(shapes).conditions) == len(shapes)
    assert len(policy([(4, 5)], observations=1).conditions) == 1  # one observation need not be stacked


def test_a_spec_names_the_times_of_its_training() -> None:
    """The number of steps is that of the times. Any other is refused with this number."""
    trained = plain(**FLOW, grid="custom(times=[1000, 400])")
    facts = DenoiserFacts(trained.schedule, "flow", grid=trained.grid or "")
    assert [step.time for step in compile_plan("ddim:2", facts).steps] == [1000, 400]
    with refuses(("grid custom", "1 steps"), "2 steps"):
        compile_plan("ddim:1", facts)


def test_a_spec_keeps_its_shape_as_a_tuple() -> None:
    assert plain(x_shape=[1, 8], conditions=[]) == plain(x_shape=(1, 8))
    assert plain(distilled=True).distilled and not plain().distilled


def test_the_page_lists_the_checks_in_their_order() -> None:
    page = (Path(__file__).parents[2] / "docs/export/spec.md").read_text().partition("## Checks\n")[2]
    rows = [tuple(cell.strip() for cell in row.split("|")[1:3]) for row in page.splitlines() if row.startswith("| ")]
    assert rows[1:] == [(check.subject, check.requirement) for check in CHECKS]
