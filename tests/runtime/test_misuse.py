"""Mistakes that look right: bytes of a picture in model range, a sampler in another process."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.literature.analytic_start import analytic_first_step
from fewstep.literature.time_travel import time_travel
from fewstep.plans.names.plan_name import is_plan_name
from fewstep.plans.plan import Plan
from fewstep.plans.transforms import tail, use_given_noise
from fewstep.runtime import Hold, Sampler, UserError
from tests.refusals import refuses

PICTURE = np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4) * 8
SCALED = PICTURE.astype(np.float32) / 127.5 - 1
RUN: dict[str, Any] = {"plan": "ddim:4", "seeds": [3, 7], "condition": {"class": [0, 2]}}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"given": {"image": PICTURE}, "strength": 0.5}, "given 'image': uint8 values up to 248"),
        ({"given": {"image": list(PICTURE)}, "strength": 0.5}, "given 'image': uint8 values up to 248"),
        ({"given": {"image": np.zeros_like(PICTURE)}, "strength": 0.5}, "given 'image': uint8 values up to 0"),
        ({"hold": Hold(PICTURE, np.ones((1, 4, 4)))}, "the value to hold: uint8 values up to 248"),
    ],
)
def test_bytes_of_a_picture_are_refused_with_the_conversion(sampler: Sampler, given: Any, named: str) -> None:
    with pytest.raises(UserError) as refused:
        sampler.sample(**RUN, **given)
    assert refused.value.what.startswith(f"{named}, ")
    assert "astype(numpy.float32) / 127.5 - 1" in refused.value.fix


def test_what_the_conversion_makes_is_taken_and_a_mask_of_bytes_too(sampler: Sampler) -> None:
    assert sampler.sample(**RUN, given={"image": SCALED}, strength=0.5).shape == PICTURE.shape
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[:, :2] = 1
    held = sampler.sample(**RUN, hold=Hold(SCALED, mask))
    np.testing.assert_array_equal(held[:, :, :2], SCALED[:, :, :2])


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_masked_values_are_not_read_through_their_mask(sampler: Sampler, dtype: type) -> None:
    masked = np.ma.array(np.zeros(PICTURE.shape, dtype), mask=PICTURE == 248)
    with pytest.raises(UserError, match="given 'image' holds masked values"):
        sampler.sample(**RUN, given={"image": masked}, strength=0.5)
    with refuses(("'class'", "masked values"), "0 shirt"):
        sampler.sample(**{**RUN, "condition": {"class": [0, np.ma.masked]}})
    with refuses(("value to hold", "masked values")):
        sampler.sample(**RUN, hold=Hold(list(masked), np.ones((1, 4, 4))))
    with pytest.raises(UserError, match="x holds masked values"):
        sampler.evaluate(masked, 5, RUN["condition"])
    assert sampler.sample(**RUN, given={"image": np.ma.array(SCALED)}, strength=0.5).shape == PICTURE.shape


@pytest.mark.parametrize(
    "value",
    [
        "x",
        None,
        1j,
        10**400,
        [[1], [2, 3]],
        ["1", "2"],
        {},
        np.datetime64(1, "s"),
        np.timedelta64(1, "s"),
        b"x",
        [None],
    ],
)
def test_what_is_no_array_of_numbers_is_one_line_that_names_the_argument(sampler: Sampler, value: Any) -> None:
    """For every array that a caller passes."""
    calls: dict[str, Callable[[], Any]] = {
        "given 'image'": lambda: sampler.sample(**RUN, given={"image": value}, strength=0.5),
        "the value to hold": lambda: sampler.sample(**RUN, hold=Hold(value, np.ones((1, 4, 4)))),
        "the mask of hold": lambda: sampler.sample(**RUN, hold=Hold(SCALED, value)),
        "x": lambda: sampler.evaluate(value, 5, RUN["condition"]),
        "times": lambda: sampler.evaluate(SCALED, value, RUN["condition"]),
        "condition 'class'": lambda: sampler.sample(**{**RUN, "condition": {"class": [0, value]}}),
    }
    for named, call in calls.items():
        with pytest.raises(UserError, match=f"^{named}"):
            call()


def test_a_given_tensor_of_another_rank_is_refused(sampler: Sampler) -> None:
    """It would silently broadcast to the same picture in all channels and samples."""
    one = sampler.sample(**RUN, given={"image": SCALED[0]}, strength=0.5)
    np.testing.assert_array_equal(
        one[1:], sampler.sample("ddim:4", [7], {"class": [2]}, given={"image": SCALED[0]}, strength=0.5)
    )
    for wrong in (0.5, SCALED[0, 0], SCALED[None]):
        with refuses(("given 'image' has the shape", "not [2, 1, 4, 4]")):
            sampler.sample(**RUN, given={"image": wrong}, strength=0.5)


@pytest.mark.parametrize("of", [pickle.dumps, copy.deepcopy])
def test_a_sampler_stays_in_its_process(sampler: Sampler, of: Any) -> None:
    with refuses("sampler", "fewstep.runtime.load"):
        of(sampler)
    assert sampler.sample(**RUN).shape == PICTURE.shape


TRANSFORMS = [analytic_first_step, use_given_noise, lambda plan: tail(plan, 1), lambda plan: time_travel(plan, 2)]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transformed_plan_is_to_be_transformed_again(sampler: Sampler, transform: Callable[[Plan], Plan]) -> None:
    """Its name would compile another plan, or none."""
    plan = transform(sampler.compile("ddim(eta=0.5):3"))
    assert plan.name.startswith("ddim(eta=0.5):3") and not is_plan_name(plan.name)
    with pytest.raises(UserError) as refused:
        sampler.compile(plan, 2.0)
    assert str(refused.value) == (
        f"plan {plan.name!r} was compiled with guidance none, not 2; "
        "compile the original plan for this bundle, and transform it again"
    )


@pytest.mark.parametrize(
    "name", ["ddim:4", "ddim(eta=0.5):10@karras(rho=5, sigma_min=0.1)", "scheduler:20", "fitted:4"]
)
def test_other_plans_are_to_be_given_by_their_names(name: str) -> None:
    assert is_plan_name(name)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.step_network("ddim:2", 1, {"class": [0]}), "plan 'ddim:2' is not compiled; give sampler.compile("),
        (lambda s: s.sample_each("ddim:2", [0], {"class": [0]}), "'ddim:2' is one plan; give a list with one for each"),
        (lambda s: s.steps("ddim:2", [0], {}, strenght=1), "a run has no option 'strenght'; it has shaping"),
        (lambda s: s.carry_on("ddim:2", [0], {"class": [0]}, carried=1), "carries no tensors from run to run; leave"),
        (
            lambda s: s.sample_each(["ddim:2"], [0], {"class": [0]}, carried=1),
            "carries no tensors from run to run; leave",
        ),
        (lambda s: s.draws([0])(0.5), "draw 0.5 is not an integer in 0 .. 2**32 - 1; number the draws"),
    ],
)
def test_mistakes_of_a_call_are_reported(sampler: Sampler, call: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        call(sampler)
    assert str(refused.value).removeprefix(f"{sampler.bundle.path} ").startswith(said)


def test_a_plan_that_starts_from_rows_or_whose_network_sees_none_is_asked_for_what_it_lacks(sampler: Sampler) -> None:
    plan, given = sampler.compile("dpmpp_2m:4"), {"seeds": RUN["seeds"], "condition": RUN["condition"]}
    with pytest.raises(UserError, match="the plan starts from 'row1'"):
        sampler.sample(tail(plan, 2), **given, given={"row0": SCALED})
    blind = msgspec.structs.replace(plan.steps[0], input=(0.0,) * plan.rows)
    with pytest.raises(UserError, match="combines 0 state tensors"):
        sampler.sample(msgspec.structs.replace(plan, steps=(blind, *plan.steps[1:])), **given, hold=Hold(SCALED, 1))
