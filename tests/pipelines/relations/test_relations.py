"""Relations in recordings that are written by hand: found up to rounding, or refused with the name of the argument."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fewstep.pipelines.recorded_pipeline import name_guider
from fewstep.pipelines.recording.added_x import adds_x, remove_x
from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.fit import round_weights
from fewstep.pipelines.recording.network_form import find_forms
from fewstep.pipelines.relations.combination import CombinationError, GuidedChange
from fewstep.pipelines.relations.relations import Relations, check_relations, find_relations, gets_x
from fewstep.pipelines.relations.time_fit import end_times
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import GuideChannels, GuideFrames, MatchNorm
from tests.refusals import refuses

Combine = Callable[[Tensor, Tensor, Tensor], Tensor]  # of the two outputs and x
TIMES = (900.0, 500.0, 100.0)
EQUAL = (900.0, 600.0, 300.0)  # steps of equal length, to 0
GUIDED = (-2.0, 3.0)


def guide(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
    return GUIDED[0] * first + GUIDED[1] * second


def recording(
    seed: int,
    combine: Combine = guide,
    time: Callable[[float], float] = lambda t: t,
    feed: Callable[[Tensor], Tensor] = lambda x: x,
    times: Sequence[float] = TIMES,
) -> CallRecord:
    """Return three steps of a call of two rows on x [1, 4, 6, 6]."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 4, 6, 6, generator=random)
    steps = []
    for t in times:
        arguments = {"sample": feed(torch.cat([x, x])), "timestep": torch.tensor([time(t)] * 2), "width": 3}
        flat, structure = pytree.tree_flatten_with_path(arguments)
        output = torch.randn(2, 4, 6, 6, generator=random)
        call = NetworkCall("unet", {pytree.keystr(path): leaf for path, leaf in flat}, structure, output)
        result = torch.randn(x.shape, generator=random)
        steps.append(SchedulerStep((call,), combine(output[:1], output[1:], x), t, x, result))
        x = result
    return CallRecord(tuple(steps))


def rewrite(*records: CallRecord) -> tuple[CallRecord, CallRecord]:
    """Return two recordings, rewritten by the form of the network that they show, if it does not get x alone."""
    base, reseeded = records
    form = None if gets_x(base) else next(find_forms("Pipe", base, reseeded), None)
    return (base, reseeded) if form is None else (form.rewrite("Pipe", base), form.rewrite("Pipe", reseeded))


def find(**changes: Callable[..., object]) -> Relations:
    return find_relations("Pipe", *rewrite(recording(0, **changes), recording(1, **changes)))  # type: ignore[arg-type]


def test_weights_are_found_to_rounding() -> None:
    assert find().combination.weights == (GUIDED,) * 3


def test_a_turned_sign_is_found() -> None:
    found = find(combine=lambda first, second, x: -guide(first, second, x))
    assert (found.combination.sign, found.combination.weights[0]) == (-1, GUIDED)


def match_norm(axis: int, branch: int) -> Combine:
    """Guidance whose result has the norm of one of the outputs along an axis."""

    def combine(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
        total, kept = guide(first, second, x), (first, second)[branch]
        return -total * kept.norm(dim=axis, keepdim=True) / total.norm(dim=axis, keepdim=True)

    return combine


@pytest.mark.parametrize(("axis", "branch"), [(-1, 1), (-2, 1), (-3, 0)])
def test_a_norm_that_guidance_keeps_is_found_with_its_axis(axis: int, branch: int) -> None:
    found = find(combine=match_norm(axis, branch)).combination
    assert found.change == GuidedChange(MatchNorm(axis), branch)
    assert found.sign == -1 and found.weights[0] == pytest.approx(GUIDED)


@pytest.mark.parametrize("sign", [1, -1])
def test_guidance_of_the_first_channels_is_found(sign: int) -> None:
    def combine(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
        return sign * torch.cat([guide(first, second, x)[:, :3], second[:, 3:]], dim=1)

    found = find(combine=combine).combination
    assert (found.change, found.sign) == (GuidedChange(GuideChannels(3), 1), sign)
    assert found.weights[0] == pytest.approx(GUIDED)


@pytest.mark.parametrize("first", [0.0, 0.25])
def test_guidance_that_grows_along_the_frames_is_found(first: float) -> None:
    weights = 1 + 2 * torch.linspace(first, 1, 4).reshape(1, 4, 1, 1)
    found = find(combine=lambda one, two, x: one + weights * (two - one)).combination
    assert found.change == GuidedChange(GuideFrames(first), 1)
    assert found.weights[0] == pytest.approx((-2.0, 3.0))


def test_guidance_by_other_weights_of_frames_is_refused() -> None:
    weights = torch.tensor([1.0, 2.0, 2.5, 3.0]).reshape(1, 4, 1, 1)
    with pytest.raises(CombinationError, match="neither with fixed weights nor in another way that fewstep knows"):
        find(combine=lambda one, two, x: one + weights * (two - one))


def test_a_time_from_one_to_zero_is_found() -> None:
    found = find(time=lambda t: 1 - t / 1000)
    assert found.times["['timestep']"] == pytest.approx((-0.001, 1.0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"combine": lambda a, b, x: guide(a, b, x) / guide(a, b, x).norm(dim=1, keepdim=True)},
            "neither with fixed weights nor in another way that fewstep knows",
        ),
        (
            {"combine": lambda a, b, x: torch.cat([b[:, :1], guide(a, b, x)[:, 1:]], dim=1)},
            "neither with fixed weights nor in another way that fewstep knows",
        ),
        ({"combine": lambda a, b, x: 0.5 * a + 0.5 * b - x}, "Pipe adds -1 times x to its network's output"),
        ({"combine": lambda a, b, x: 0.5 * (a + 2 * b)}, "outputs sum to 1.5, not to 1"),
        ({"time": lambda t: t**2}, r"\['timestep'\] changes between steps, and not as a linear function of the time"),
        ({"feed": lambda x: x**3}, r"network's input \['sample'\] is not a multiple of x"),
    ],
)
def test_other_forms_are_refused_in_words(changes: dict[str, Callable[..., object]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        find(**changes)


def test_a_guider_is_named_where_outputs_are_combined_in_another_form() -> None:
    class Projected: ...

    built = BuiltPipeline(SimpleNamespace(guider=Projected()), {})
    named = name_guider(CombinationError("Pipe combines outputs", "write a function"), built)
    assert named.what == "Pipe combines outputs: its guider is Projected" and "ClassifierFreeGuidance" in named.fix


def test_x_that_changes_after_one_step_is_refused() -> None:
    base = recording(0)
    blended = replace(base.steps[1], sample=base.steps[1].sample * 0.5)
    with refuses("Pipe changes different parts of x"):
        find_relations("Pipe", replace(base, steps=(base.steps[0], blended, base.steps[2])), recording(1))


def convert_x0(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
    """Return the velocity (x - x0) / 0.4 of a guided x0."""
    return (x - guide(first, second, x)) / 0.4


def test_a_converted_prediction_is_the_sum_of_the_outputs() -> None:
    base, other = (remove_x(recording(seed, convert_x0)) for seed in (0, 1))
    found = find_relations("Pipe", base, other).combination
    assert found.sign == 1 and found.weights[0] == pytest.approx(GUIDED, abs=1e-5)


@pytest.mark.parametrize(("combine", "adds"), [(guide, False), (convert_x0, True)])
def test_a_pipeline_that_adds_x_is_found(combine: Combine, adds: bool) -> None:
    assert adds_x(recording(0, combine)) is adds


def with_ends(record: CallRecord) -> CallRecord:
    """Return the recording of a network that also gets the time at which the step ends."""
    steps = []
    for step, end in zip(record.steps, end_times(record), strict=True):
        (call,) = step.calls
        leaves = {**call.leaves, "['end']": torch.tensor([end / 10] * 2)}
        steps.append(replace(step, calls=(replace(call, leaves=leaves),)))
    return CallRecord(tuple(steps))


@pytest.mark.parametrize("times", [TIMES, EQUAL])
def test_the_time_at_which_a_step_ends_is_a_second_time(times: tuple[float, ...]) -> None:
    found = find_relations("Pipe", *(with_ends(recording(seed, times=times)) for seed in (0, 1)))
    assert found.times["['end']"] == pytest.approx((0.1, 0.0)) and found.seconds == {"['end']"}
    check_relations("Pipe", found, with_ends(recording(2, times=(900.0, 200.0))), "number of steps")


def test_a_time_from_data_to_noise_in_equal_steps_is_no_second_time() -> None:
    found = find_relations("Pipe", *(recording(seed, time=lambda t: 1 - t / 1000, times=EQUAL) for seed in (0, 1)))
    assert found.times == {"['timestep']": pytest.approx((-0.001, 1.0))} and not found.seconds


def test_two_times_are_found_in_their_units() -> None:
    def with_second_time(record: CallRecord) -> CallRecord:
        steps = []
        for step in record.steps:
            (call,) = step.calls
            leaves = {**call.leaves, "['sigma']": torch.tensor([step.time / 1000] * 2)}
            steps.append(replace(step, calls=(replace(call, leaves=leaves),)))
        return CallRecord(tuple(steps))

    found = find_relations("Pipe", with_second_time(recording(0)), with_second_time(recording(1)))
    assert found.times == {"['sigma']": (0.001, 0.0), "['timestep']": (1.0, 0.0)}


def test_an_argument_that_changes_in_a_later_step_of_another_recording_is_refused() -> None:
    found, other = find(), recording(2)
    (call,) = other.steps[1].calls
    changed = replace(call, leaves={**call.leaves, "['width']": 4})
    steps = (other.steps[0], replace(other.steps[1], calls=(changed,)), other.steps[2])
    with refuses(("Pipe changes", "['width']", "step 2 of 3")):
        check_relations("Pipe", found, replace(other, steps=steps), "number of steps")


def test_channels_around_x_that_change_with_the_step_are_refused() -> None:
    levels = iter(range(100))
    with refuses(("Pipe changes the part of ['sample']", "step 2")):
        find(feed=lambda x: torch.cat([x, torch.full((2, 3, 6, 6), float(next(levels)))], dim=1))


def swap_in_last_step(record: CallRecord) -> CallRecord:
    """Return two calls of one row in each step, with an argument each. The arguments are swapped in the last step."""
    steps = []
    for number, step in enumerate(record.steps):
        (call,) = step.calls
        calls = []
        for row in range(2):
            leaves = {
                path: leaf[row : row + 1] if torch.is_tensor(leaf) else leaf for path, leaf in call.leaves.items()
            }
            value = torch.tensor([float(row if number < 2 else 1 - row)])
            calls.append(replace(call, leaves={**leaves, "['embeds']": value}, output=call.output[row : row + 1]))
        steps.append(replace(step, calls=tuple(calls)))
    return CallRecord(tuple(steps))


def test_branches_that_change_places_are_refused() -> None:
    with refuses(("Pipe changes", "['embeds']", "step 3 of 3")):
        find_relations("Pipe", swap_in_last_step(recording(0)), swap_in_last_step(recording(1)))


@pytest.mark.parametrize(
    ("fitted", "weights"),
    [
        ((6.0000001, -5.0, 1.944e-9), (6, -5, 0)),  # InstructPix2Pix with an image_guidance_scale of 1
        ((-6.49999995, 7.49999995), (-6.5, 7.5)),
        ((0.7, 0.30000001), (0.7, 0.3)),
        ((0.99999998,), (1,)),
    ],
)
def test_fitted_weights_become_short_numbers(fitted: Sequence[float], weights: Sequence[float]) -> None:
    assert round_weights(fitted) == weights


def test_fitted_weights_of_many_digits_sum_to_one() -> None:
    rounded = round_weights([-3.1234567, 4.1234569])
    assert sum(rounded) == 1 and rounded == pytest.approx([-3.1234567, 4.1234567])


def in_frames(seed: int, still: float = 0.0, moved: bool = False) -> CallRecord:
    """Return steps of a video [1, 4, 5, 6]. The network gets a given frame before x, two other channels after x, and a
    time for each frame. The time of the given frame is `still`, or changes with the step if `moved`.
    """
    record = recording(seed)
    steps = []
    for step in record.steps:
        x = step.sample[:, :, 1:]
        seen = torch.cat([torch.ones(1, 4, 1, 6), x], dim=2)
        seen = torch.cat([seen, torch.full((1, 2, 6, 6), 2.0)], dim=1).repeat(2, 1, 1, 1)
        times = torch.full((2, 6), step.time)
        times[:, 0] = 7 * step.time**2 if moved else still
        leaves = {**step.calls[0].leaves, "['sample']": seen, "['timestep']": times}
        output = step.model_output[:, :, 1:]
        call = replace(step.calls[0], leaves=leaves)
        steps.append(replace(step, calls=(call,), sample=x, model_output=output, result=step.result[:, :, 1:]))
    return replace(record, steps=tuple(steps))


def test_the_time_of_a_given_frame_is_kept() -> None:
    relations = find_relations("Pipe", *rewrite(in_frames(0, still=3.0), in_frames(1, still=3.0)))
    assert relations.times == {"['timestep']": (1.0, 0.0)}
    assert relations.still_times["['timestep']"].nan_to_num(-1).tolist() == [3.0, -1, -1, -1, -1, -1]


def test_a_given_frame_with_another_time_in_another_recording_is_refused() -> None:
    relations = find_relations("Pipe", *rewrite(in_frames(0), in_frames(1)))
    with refuses(("['timestep']", "constant in other recordings")):
        check_relations("Pipe", relations, rewrite(in_frames(2, still=5.0), in_frames(3))[0], "prompt")


def test_times_of_positions_that_change_in_other_ways_are_refused() -> None:
    with refuses(("['timestep']", "different positions")):
        find_relations("Pipe", *rewrite(in_frames(0, moved=True), in_frames(1, moved=True)))


def test_rows_with_other_times_are_refused() -> None:
    records = []
    for record in (in_frames(0), in_frames(1)):
        (call,) = record.steps[-1].calls
        times = call.leaves["['timestep']"] * torch.tensor([[1.0], [0.5]])
        last = replace(record.steps[-1], calls=(replace(call, leaves={**call.leaves, "['timestep']": times}),))
        records.append(replace(record, steps=(*record.steps[:-1], last)))
    with refuses(("['timestep']", "different rows")):
        find_relations("Pipe", *rewrite(*records))
