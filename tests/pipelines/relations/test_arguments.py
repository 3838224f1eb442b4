"""Arguments of recordings that are written by hand: which branch has the conditions, and which arguments follow the
batch.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep
from fewstep.pipelines.recording.network_form import find_forms
from fewstep.pipelines.recording.settings import OTHER_SHORTNESS
from fewstep.pipelines.relations.argument_rows import find_second_axes, rows_first
from fewstep.pipelines.relations.arguments import BATCH, NetworkArguments, sort_arguments
from fewstep.pipelines.relations.relations import find_relations, gets_x
from tests.refusals import refuses

TIMES = (900.0, 500.0, 100.0)
EMPTY, PICTURE, OTHER = torch.zeros(5), torch.linspace(0, 1, 5), torch.linspace(1, 2, 5)


def recording(
    rows: tuple[torch.Tensor, ...], seed: int = 0, samples: int = 1, picture: torch.Tensor | None = None, **more: Any
) -> CallRecord:
    """Return the steps of one call, with a row of `embeds` for each branch, each for `samples` samples, and with the
    channels of a picture after x.
    """
    random = torch.Generator().manual_seed(seed)
    x, steps = torch.randn(samples, 4, 6, 6, generator=random), []
    for time in TIMES:
        seen = x if picture is None else torch.cat([x, picture], dim=1)
        arguments = {
            "sample": torch.cat([seen] * len(rows)),
            "timestep": torch.full((len(rows) * samples,), time),
            "embeds": torch.stack([row for row in rows for _ in range(samples)]),
            **more,
        }
        flat, structure = pytree.tree_flatten_with_path(arguments)
        output = torch.randn(len(rows) * samples, 4, 6, 6, generator=random)
        call = NetworkCall("prior", {pytree.keystr(path): leaf for path, leaf in flat}, structure, output)
        first, second = output[:samples], output[-samples:]
        result = torch.randn(x.shape, generator=random)
        steps.append(SchedulerStep((call,), -2 * first + 3 * second, time, x, result))
        x = result
    return CallRecord(tuple(steps))


def sort(base: tuple[torch.Tensor, ...], variants: Mapping[str, CallRecord], **more: Any) -> NetworkArguments:
    first, other = recording(base, **more), recording(base, seed=1, **more)
    if not gets_x(first):
        form = next(find_forms("Pipe", first, other))
        first, other = form.rewrite("Pipe", first), form.rewrite("Pipe", other)
        variants = {setting: form.rewrite("Pipe", variant) for setting, variant in variants.items()}
    return sort_arguments("Pipe", find_relations("Pipe", first, other), first, variants)


def test_the_branch_that_changes_with_the_picture_has_the_conditions() -> None:
    sorted_arguments = sort((EMPTY, PICTURE), {"image": recording((EMPTY, OTHER))})
    assert (sorted_arguments.conditional, sorted_arguments.unconditional) == (1, 0)


def test_an_argument_that_only_a_negative_prompt_changes_is_a_condition() -> None:
    """The mask of a short negative prompt: all texts of the usual call fill it."""
    full, short = torch.ones(2, 3, dtype=torch.int64), torch.tensor([[1, 1, 1], [1, 0, 0]])
    variants = {
        "prompt": recording((OTHER, EMPTY), mask=full),
        OTHER_SHORTNESS: recording((PICTURE, EMPTY), mask=short),
    }
    conditions = {each.name: each.dtype for each in sort((PICTURE, EMPTY), variants, mask=full).conditions}
    assert conditions == {"embeds": "float32", "mask": "int64"}


SIZES = torch.tensor([[512.0, 0.0, 6.0], [512.0, 0.0, 2.5]])  # with a score, in each branch


def test_a_number_that_differs_between_branches_alone_is_a_condition_with_a_default() -> None:
    """The score that SDXL's refiner reads after its sizes."""
    found = sort((PICTURE, EMPTY), {"prompt": recording((OTHER, EMPTY), sizes=SIZES)}, sizes=SIZES)
    (score,) = (condition for condition in found.conditions if condition.name == "sizes_2")
    assert (score.shape, score.default, score.null, score.shared) == ((), (6.0,), 2.5, False)
    assert found.arguments["['sizes']"].places == (2,)


def test_an_argument_whose_only_number_differs_between_branches_has_its_name() -> None:
    score = SIZES[:, 2:]
    found = sort((PICTURE, EMPTY), {"prompt": recording((OTHER, EMPTY), sizes=score)}, sizes=score)
    assert "sizes" in {condition.name for condition in found.conditions}


def test_numbers_with_several_null_values_have_no_default() -> None:
    sizes = torch.tensor([[6.0, 6.0], [2.5, 1.0]])
    found = sort((PICTURE, EMPTY), {"prompt": recording((OTHER, EMPTY), sizes=sizes)}, sizes=sizes)
    assert {condition.name: condition.default for condition in found.conditions}["sizes"] is None


def test_the_prompt_decides_before_the_picture() -> None:
    variants = {"prompt": recording((OTHER, EMPTY)), "image": recording((PICTURE, OTHER))}
    assert sort((PICTURE, EMPTY), variants).conditional == 0


def test_an_array_alone_decides_if_all_arrays_together_change_each_branch() -> None:
    """image_embeds and negative_image_embeds of Kandinsky 2.2; the array for the other branch decides nothing."""
    variants = {
        "image": recording((OTHER, OTHER)),
        "argument negative_image_embeds": recording((OTHER, PICTURE)),
        "argument image_embeds": recording((EMPTY, OTHER)),
    }
    sorted_arguments = sort((EMPTY, PICTURE), variants)
    assert (sorted_arguments.conditional, sorted_arguments.unconditional) == (1, 0)


def test_the_prompt_decides_although_an_encoded_picture_has_other_noise_in_each_recording() -> None:
    noisy = [torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    variants = {"prompt": recording((EMPTY, OTHER), picture=noisy[1])}
    assert sort((EMPTY, PICTURE), variants, picture=noisy[0]).conditional == 1


@pytest.mark.parametrize("other", [(EMPTY, PICTURE), (OTHER, OTHER)])
def test_branches_that_no_setting_tells_apart_are_refused(other: tuple[torch.Tensor, ...]) -> None:
    with refuses("2 branches"):
        sort((EMPTY, PICTURE), {"image": recording(other)})


def test_a_number_that_follows_the_batch_is_refused() -> None:
    variants = {"image": recording((EMPTY, OTHER), count=1), BATCH: recording((EMPTY, PICTURE), samples=2, count=2)}
    with refuses(("['count']", "changes with the number of samples")):
        sort((EMPTY, PICTURE), variants, count=1)


def test_a_list_that_follows_the_batch_is_refused() -> None:
    shapes = [(1, 6, 6)]
    variants = {
        "image": recording((EMPTY, OTHER), shapes=shapes),
        BATCH: recording((EMPTY, PICTURE), samples=2, shapes=shapes * 2),
    }
    with refuses("Pipe passes different arguments to its network for two samples"):
        sort((EMPTY, PICTURE), variants, shapes=shapes)


def full(first: float, second: float) -> torch.Tensor:
    return torch.tensor([first, second])


def prompt(**more: Any) -> CallRecord:
    return recording((EMPTY, OTHER), **more)


def test_a_tensor_that_changes_with_the_number_of_steps_is_refused() -> None:
    third, fifth = full(1 / 3, 1 / 3), full(0.2, 0.2)
    variants = {"prompt": prompt(dt=third), "number of steps": recording((EMPTY, PICTURE), dt=fifth)}
    with refuses(("['dt']", "changes with the number of steps")):
        sort((EMPTY, PICTURE), variants, dt=third)


def test_the_number_of_steps_in_the_other_branch_alone_is_refused() -> None:
    own, other = full(1 / 3, 0.0), full(0.2, 0.0)
    variants = {"prompt": prompt(dt=own), "number of steps": recording((EMPTY, PICTURE), dt=other)}
    with refuses(("['dt']", "changes with the number of steps")):
        sort((EMPTY, PICTURE), variants, dt=own)


def test_a_guidance_tensor_that_differs_between_branches_is_refused() -> None:
    own, other = full(0.0, 5.0), full(0.0, 5.5)
    variants = {"prompt": prompt(weight=own), "guidance_scale": recording((EMPTY, PICTURE), weight=other)}
    with refuses("guidance_scale"):
        sort((EMPTY, PICTURE), variants, weight=own)


def test_a_guidance_tensor_of_all_branches_is_a_shared_condition_with_a_default() -> None:
    own, other = full(5.0, 5.0), full(5.5, 5.5)
    variants = {"prompt": prompt(weight=own), "guidance_scale": recording((EMPTY, PICTURE), weight=other)}
    condition = sort((EMPTY, PICTURE), variants, weight=own).arguments["['weight']"].condition
    assert condition is not None and (condition.shared, condition.default) == (True, (5.0,))


def test_states_of_two_layers_have_their_rows_along_the_second_axis() -> None:
    base, larger = (
        recording((EMPTY, PICTURE), samples=samples, layers=torch.zeros(2, 2 * samples, 3, 7)) for samples in (1, 2)
    )
    found = find_relations("Pipe", base, recording((EMPTY, PICTURE), seed=1, layers=torch.zeros(2, 2, 3, 7)))
    assert find_second_axes(found, base, larger) == {"['layers']"}


def test_a_second_axis_that_does_not_grow_alone_has_no_rows() -> None:
    """A constant with as many columns as the larger call has rows, and a matrix of rows by rows."""
    base, larger = (
        recording(
            (EMPTY, PICTURE), samples=samples, table=torch.zeros(5, 4), pairs=torch.zeros(2 * samples, 2 * samples)
        )
        for samples in (1, 2)
    )
    reseeded = recording((EMPTY, PICTURE), seed=1, table=torch.zeros(5, 4), pairs=torch.zeros(2, 2))
    found = find_relations("Pipe", base, reseeded)
    assert not find_second_axes(found, base, larger)


def test_rows_along_the_second_axis_become_the_first() -> None:
    base = recording((EMPTY, PICTURE), layers=torch.zeros(5, 2, 3, 7))
    found = find_relations("Pipe", base, recording((EMPTY, PICTURE), seed=1, layers=torch.zeros(5, 2, 3, 7)))
    leaves = rows_first(base.steps[0].calls[0], replace(found, second_axes=frozenset(["['layers']"])))
    assert leaves["['layers']"].shape == (2, 5, 3, 7)


def test_a_vector_of_equal_weights_has_no_rows_if_the_pipeline_takes_one_sample() -> None:
    weights = torch.ones(2)
    variants = {"prompt": recording((OTHER,), weights=weights)}
    argument = sort((PICTURE,), variants, weights=weights).arguments["['weights']"]
    assert argument.repeats == 0 and torch.equal(argument.value, weights)


SECOND = "inputs of control"


def of_second(*, picture: torch.Tensor, seed: int = 0) -> CallRecord:
    """A recording in which the second network gets a picture in both branches."""
    rows = torch.stack([picture, picture])
    return recording((EMPTY, PICTURE), seed=seed, **{SECOND: {"picture": rows}})


def sort_second(base: CallRecord, other: CallRecord, image: CallRecord, **variants: CallRecord) -> NetworkArguments:
    variants |= {"prompt": recording((EMPTY, OTHER), **{SECOND: {"picture": base_picture(base)}}), "image": image}
    return sort_arguments("Pipe", find_relations("Pipe", base, other), base, variants)


def base_picture(record: CallRecord) -> torch.Tensor:
    picture: torch.Tensor = record.steps[0].calls[0].arguments[SECOND]["picture"]
    return picture


def test_the_picture_of_a_second_network_is_a_shared_condition_in_the_range_of_pictures() -> None:
    base, other = of_second(picture=PICTURE), of_second(picture=PICTURE, seed=1)
    (_, condition) = sort_second(base, other, of_second(picture=PICTURE / 2)).conditions
    assert condition.name == "picture" and condition.shared and condition.typical == (0.0, 1.0)


def test_an_encoded_picture_of_a_second_network_may_have_noise_of_its_own() -> None:
    base, other = of_second(picture=OTHER), of_second(picture=OTHER + 0.1, seed=1)
    sorted_arguments = sort_second(base, other, of_second(picture=OTHER + 0.3))
    assert sorted_arguments.conditions[1].shared and sorted_arguments.conditions[1].typical is None
