"""Calls besides the plain one: cancelling, bare evaluations, further branches, images, a plan for each sample."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.plans.guidance import Branches, Cfg, CfgPlusPlus
from fewstep.plans.plan import Tensor, Term
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Clip, Rescale
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.transforms import tail, tail_inputs, use_given_noise
from fewstep.runtime import Cancelled, Hold, Sampler, UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.runs import Tiles, sample_tiles
from fewstep.runtime.sampling import execution, finite_checks
from fewstep.runtime.sampling.execute import execute, finish
from fewstep.runtime.sampling.execution import plan_for
from fewstep.runtime.sampling.finite_checks import NotFinite
from tests.bundles import change_bundle
from tests.refusals import refuses
from tests.runtime.sampling.test_sampler import GROUP_SCALE, LABEL_SHIFT, X_SHAPE, by_hand

GIVEN = {"seeds": [3, 7], "condition": {"class": [0, 2]}}
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, *X_SHAPE)).astype(np.float32)


def test_a_run_is_cancelled_from_another_thread_between_evaluations(sampler: Sampler) -> None:
    wanted, seen = threading.Event(), []
    states = sampler.steps("ddim:50", **GIVEN, cancel=wanted)
    with pytest.raises(Cancelled):
        for state in states:
            seen.append(state.index)
            if state.index == 2:
                thread = threading.Thread(target=wanted.set)
                thread.start()
                thread.join()
    assert seen == [0, 1, 2]
    with pytest.raises(Cancelled):
        sampler.sample("ddim:5", **GIVEN, cancel=lambda: True)
    with pytest.raises(Cancelled):
        sampler.sample_each(["ddim:5", "ddim:5"], **GIVEN, cancel=lambda: True)
    assert sampler.sample("ddim:5", **GIVEN, cancel=threading.Event()).shape == (2, *X_SHAPE)


@pytest.mark.parametrize("plan", ["ddim:5", ["ddim:2", "ddim:5"]])
def test_a_run_that_is_done_is_not_cancelled(sampler: Sampler, plan: Any) -> None:
    looks: list[None] = []

    def after_five() -> bool:
        looks.append(None)
        return len(looks) > 5

    assert np.isfinite(sample_of(sampler, plan)(plan, **GIVEN, cancel=after_five)).all()
    assert len(looks) == 5


def test_the_bare_network_is_called_once_for_times_of_each_sample(tiny_bundle: Path) -> None:
    sampler = fewstep.runtime.load(tiny_bundle)
    expected = IMAGES / 2 + (LABEL_SHIFT[[1, 3]] + np.array([5, 80], np.float32) / 1000)[:, None, None, None]
    np.testing.assert_allclose(sampler.evaluate(IMAGES, [5, 80], {"class": [1, 3]}), expected, rtol=1e-6)
    int8 = fewstep.runtime.load(tiny_bundle, "int8")  # two range groups, one for each sample
    scale = GROUP_SCALE[[1, 0]][:, None, None, None]
    np.testing.assert_allclose(int8.evaluate(IMAGES, [5, 80], {"class": [1, 3]}), expected * scale, rtol=1e-6)


def test_branches_take_the_conditions_that_the_caller_says(sampler: Sampler) -> None:
    """A negative prompt: the unconditional branch with another class equals three branches by name."""
    negative = sampler.sample("ddim:4", **GIVEN, guidance=2.0, branches={"uncond": {"class": [1, 1]}})
    form = Branches({"cond": 2.0, "avoid": -1.0})
    named = sampler.sample("ddim:4", **GIVEN, guidance=form, branches={"avoid": {"class": [1, 1]}})
    np.testing.assert_array_equal(negative, named)
    null = sampler.sample("ddim:4", **GIVEN, guidance=form, branches={"avoid": {"class": None}})
    np.testing.assert_array_equal(null, sampler.sample("ddim:4", **GIVEN, guidance=2.0))
    assert not np.array_equal(null, named)


def test_guidance_forms_and_shapes_are_compiled(sampler: Sampler) -> None:
    plain = sampler.sample("ddim:4", **GIVEN, guidance=2.0)
    assert not np.array_equal(plain, sampler.sample("ddim:4", **GIVEN, guidance=CfgPlusPlus(0.5)))
    clipped = sampler.sample("ddim:4", **GIVEN, guidance=2.0, shaping=Clip(-0.1, 0.1))
    assert np.abs(clipped).max() <= 0.1 + 1e-6 < np.abs(plain).max()
    plan = sampler.compile("ddim:4", 2.0, shaping=Clip(-0.1, 0.1))
    np.testing.assert_array_equal(clipped, sampler.sample(plan, **GIVEN))


def test_image_to_image_keeps_more_of_the_image_at_less_strength(sampler: Sampler) -> None:
    def distance(strength: float) -> float:
        made = sampler.sample("ddim:20", **GIVEN, given={"image": IMAGES}, strength=strength)
        return float(np.abs(made - IMAGES).mean())

    weak, strong = distance(0.1), distance(0.9)
    assert weak < 0.5 * strong


def test_a_run_is_resumed_from_its_rows(sampler: Sampler) -> None:
    plan = sampler.compile("dpmpp_2m:6", 2.0)
    states = list(sampler.steps(plan, **GIVEN))
    whole = sampler.sample(plan, **GIVEN)
    for k in (1, 5):
        rows = tail_inputs(states[k - 1].after)
        np.testing.assert_array_equal(sampler.sample(tail(plan, k), **GIVEN, given=rows), whole)


def test_samples_may_start_at_steps_of_their_own(sampler: Sampler) -> None:
    """Each at another noise level, with sigma per sample."""
    plan = sampler.compile("ddim:6")
    plans, x = [tail(plan, 1), tail(plan, 4)], sampler.draws([5, 6])(0)
    made = sampler.sample_each(plans, **GIVEN, given={"row0": x})
    for place, each in enumerate(plans):
        alone = sampler.sample(each, **GIVEN, given={"row0": x})
        np.testing.assert_array_equal(made[place], alone[place])


def test_the_noise_of_a_seed_may_be_brought(sampler: Sampler) -> None:
    plan, noise = sampler.compile("ddim:4"), sampler.draws(GIVEN["seeds"])(0)
    made = sampler.sample(use_given_noise(plan), **GIVEN, given={"noise": noise})
    np.testing.assert_array_equal(made, sampler.sample(plan, **GIVEN))
    assert (sampler.sample(use_given_noise(plan), **GIVEN, given={"noise": -noise}) != made).any()


def test_a_hold_may_have_a_value_for_each_step(sampler: Sampler) -> None:
    """With the rows of another run as values, the held part follows that run."""
    other = {**GIVEN, "seeds": [8, 9]}
    states = list(sampler.steps("ddim:4", **other))
    values = (*(state.before[0] for state in states), sampler.sample("ddim:4", **other))
    mask = np.zeros(X_SHAPE, np.float32)
    mask[:, :2] = 1
    made = sampler.sample("ddim:4", **GIVEN, hold=Hold(values, mask, clean=True))
    np.testing.assert_array_equal(made[:, :, :2], values[4][:, :, :2])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_each_sample_may_follow_its_own_plan(tiny_bundle: Path, precision: str) -> None:
    sampler = fewstep.runtime.load(tiny_bundle, precision)
    plans = ["ddim:3", "dpmpp_2m:8", "ddim:3", "heun:4"]
    seeds, classes = [1, 2, 3, 4], [0, 1, 2, 0]
    together = sampler.sample_each(plans, seeds, {"class": classes}, 2.0)
    for i, plan in enumerate(plans):
        alone = sampler.sample(plan, [seeds[i]], {"class": [classes[i]]}, 2.0)
        np.testing.assert_array_equal(together[i : i + 1], alone)


def test_samples_of_one_batch_share_their_network_calls(sampler: Sampler) -> None:
    rows: list[int] = []

    def count_call(feeds):
        rows.append(len(feeds["x"]))
        return sampler.network().graph(feeds)

    counting = sampler.with_network_parts(graph=count_call)
    counting.sample_each(["ddim:2", "ddim:4", "ddim:4"], [0, 1, 2], {"class": [0, 0, 0]}, 2.0)
    assert rows == [6, 6, 4, 4]


@pytest.mark.parametrize("grouped", ["first", "body"])
def test_earlier_graphs_run_the_first_groups_whichever_graph_takes_the_group(tiny_bundle: Path, grouped: str) -> None:
    """A precision map may leave the last steps, or the first, all in float: that graph has no range group."""
    bodies, replace = open_bundle(tiny_bundle).manifest.bodies, msgspec.structs.replace
    int8, float32 = bodies["int8-cpu-x86"], bodies["float32"].graph
    first, last = (int8.graph, float32) if grouped == "first" else (float32, int8.graph)
    several = replace(int8, graphs=(replace(first, until=int8.groups[0]), last))
    sampler = fewstep.runtime.load(change_bundle(tiny_bundle, bodies={**bodies, "int8-cpu-x86": several}), "int8")
    plan = sampler.compile("ddim:6", 2.0)
    assert [step.group for step in plan.steps] == [0, 0, 0, 0, 1, 1]
    scale = {"first": [GROUP_SCALE[0], 1.0], "body": [1.0, GROUP_SCALE[1]]}[grouped]
    made = sampler.sample(plan, **GIVEN)
    np.testing.assert_allclose(made, by_hand("ddim:6", [3, 7], [0, 2], 2.0, scale), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(sampler.sample_each([plan, "ddim:9"], **GIVEN, guidance=2.0)[0], made[0])
    bare = sampler.evaluate(IMAGES, [80, 5], {"class": [0, 2]})
    shift = (LABEL_SHIFT[[0, 2]] + np.array([80, 5]) / 1000)[:, None, None, None]
    np.testing.assert_allclose(bare, (IMAGES / 2 + shift) * np.reshape(scale, (2, 1, 1, 1)), rtol=1e-5)


def test_a_time_is_looked_up_as_it_is_given(tiny_bundle: Path) -> None:
    """The first time of EDM, log(80) / 4, is outside the schedule after rounding to float32."""
    sampler = fewstep.runtime.load(change_bundle(tiny_bundle, schedule=ScheduleSpec("edm"), prediction="edm"))
    times = [step.time for step in sampler.compile("ddim:3").steps]
    assert float(np.float32(times[0])) > times[0]
    for time in times:
        expected = IMAGES / 2 + (LABEL_SHIFT[[0, 2]] + np.float32(time) / 1000)[:, None, None, None]
        np.testing.assert_allclose(sampler.evaluate(IMAGES, time, {"class": [0, 2]}), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "time", "to", "message"),
    [
        (IMAGES * np.nan, 5, None, "x holds a number that is not finite"),
        (IMAGES[:, 0], 5, None, r"x has the shape \[2, 4, 4\]"),
        ("noise", 5, None, "x is not an array of numbers"),
        (IMAGES, {}, None, "times are not an array of numbers"),
        (IMAGES, [5, 6, 7], None, r"time \[5, 6, 7\] has the shape \[3\], not \[2\]"),
        (IMAGES, 1e300, None, "not all finite"),
        (IMAGES, 100, None, "time 100 is outside 0 .. 99"),
        (IMAGES, 5, 4, "takes one time, but gets two"),
    ],
)
def test_what_the_bare_network_cannot_take_is_named(sampler: Sampler, x: Any, time: Any, to: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sampler.evaluate(x, time, {"class": [0, 2]}, to)


def test_who_says_what_uncond_is_needs_no_null_value(tiny_bundle: Path) -> None:
    """The encoding of an empty prompt is an array, which the caller can give and the denoiser cannot name."""
    null = {"uncond": {"class": [3, 3]}}
    expected = fewstep.runtime.load(tiny_bundle).sample("ddim:4", **GIVEN, guidance=2.0)
    (label,) = open_bundle(tiny_bundle).manifest.conditions
    without = msgspec.structs.replace(label, null=None, high=3)
    sampler = fewstep.runtime.load(change_bundle(tiny_bundle, conditions=(without,)))
    np.testing.assert_array_equal(sampler.sample("ddim:4", **GIVEN, guidance=2.0, branches=null), expected)
    np.testing.assert_array_equal(sampler.sample_each(["ddim:4"] * 2, **GIVEN, guidance=2.0, branches=null), expected)
    with pytest.raises(UserError, match="needs an unconditional branch"):
        sampler.sample("ddim:4", **GIVEN, guidance=2.0)


def test_a_compiled_plan_is_checked_once(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of a robot's policy runs the same plan; a copy is a new one."""
    plan = sampler.compile("ddim:4", 2.0)
    checked: list[Any] = []
    monkeypatch.setattr(
        execution, "plan_for", lambda *given, **named: checked.append(given) or plan_for(*given, **named)
    )
    first = sampler.sample(plan, **GIVEN)
    np.testing.assert_array_equal(sampler.sample(plan, **GIVEN), first)
    assert not checked
    np.testing.assert_array_equal(sampler.sample(msgspec.structs.replace(plan), **GIVEN), first)
    with refuses("compiled with guidance 2, not 3"):
        sampler.sample(plan, **GIVEN, guidance=3.0)
    assert len(checked) == 2


def test_the_schedule_is_made_once_for_all_plans(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise loops that sample new plans would wait for it each time."""
    plan, made = sampler.compile("ddim:4", 2.0), list[NoiseSchedule]()
    monkeypatch.setattr(NoiseSchedule, "__post_init__", lambda made_now: made.append(made_now))
    for _ in range(3):
        sampler.sample(msgspec.structs.replace(plan), **GIVEN)
    assert len(made) <= 1


def test_a_plan_is_asked_for_with_the_shape_it_has(sampler: Sampler) -> None:
    """Rescale acts where two branches are evaluated, and no shape is given elsewhere."""
    plan = sampler.compile("ddim:4", Cfg((2.0, 1.0)), shaping=Rescale(0.7))
    assert [step.shaping for step in plan.steps] == [Rescale(0.7), None, None, None]
    again = sampler.sample(plan, **GIVEN, shaping=Rescale(0.7))
    np.testing.assert_array_equal(again, sampler.sample("ddim:4", **GIVEN, guidance=Cfg((2, 1)), shaping=Rescale(0.7)))
    with pytest.raises(UserError, match="compiled without shaping"):
        sampler.sample(plan, **GIVEN, shaping=Rescale(0.5))


@pytest.mark.parametrize("shape", [(7,), (7, 1, 1, 1), (2, 1, 1)])
def test_a_tensor_of_a_plan_fits_the_samples(sampler: Sampler, shape: tuple[int, ...]) -> None:
    plan = msgspec.structs.replace(
        sampler.compile("ddim:4"), tensors=(Tensor(shape, np.ones(shape).tobytes()),), start_terms=(Term(0, 0, 0),)
    )
    with refuses((str(list(shape)), "[1, 4, 4]")):
        sampler.sample(plan, **GIVEN)


def sample_of(sampler: Sampler, plan: object) -> Callable[..., np.ndarray]:
    return sampler.sample_each if isinstance(plan, list) else sampler.sample


def test_an_output_that_overflows_is_named_among_mixed_plans_as_alone(tiny_bundle: Path) -> None:
    """Clipping would hide it."""

    def endless(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"v": np.full_like(feeds["x"], np.inf)}

    sampler = fewstep.runtime.load(tiny_bundle).with_network_parts(graph=endless)
    for plan in ("ddim:4", ["ddim:4", "ddim:6"]):
        with pytest.raises(NotFinite, match="the denoiser's output is not finite at step 1 of 4"):
            sample_of(sampler, plan)(plan, **GIVEN, shaping=Clip(-1, 1))


@pytest.mark.parametrize(("largest", "is_far"), [(3.9, False), (-3.9, False), (4.1, True), (-4.1, True)])
def test_pictures_beyond_four_times_the_usual_range_are_far(tiny_bundle: Path, largest: float, is_far: bool) -> None:
    sampler = fewstep.runtime.load(tiny_bundle)
    x = np.array([0.0, largest], np.float32)
    said = finite_checks.describe_divergence(x, sampler.compile("ddim:4"), sampler.bundle.manifest)
    assert (said is not None) is is_far


def test_a_caller_s_own_loop_takes_the_conditions_of_branches(sampler: Sampler) -> None:
    plan, branches = sampler.compile("ddim:2", 2.0), {"uncond": {"class": [1, 1]}}
    network = sampler.step_network(plan, 2, GIVEN["condition"], branches)
    made = finish(plan, execute(plan, network, sampler.draws(GIVEN["seeds"])))
    np.testing.assert_array_equal(made, sampler.sample(plan, **GIVEN, branches=branches))
    assert not np.array_equal(made, sampler.sample(plan, **GIVEN))


def test_a_known_range_of_the_data_is_in_the_warning_and_its_fix(sampler: Sampler) -> None:
    manifest = msgspec.structs.replace(sampler.bundle.manifest, data_limit=3.25)
    said = finite_checks.describe_divergence(np.array([14.0], np.float32), sampler.compile("ddim:4"), manifest)
    assert said is not None and "reach 14, far beyond your data, which stay within 3.25: clip" in said
    assert said.endswith("--clip 3.25, the largest number in your data (in Python shaping=Clip(-3.25, 3.25))")


def test_a_scheduler_is_replaced_where_samples_are_far(tiny_bundle: Path) -> None:
    """Its plans take no clip but that of the scheduler's config."""
    sampler = fewstep.runtime.load(tiny_bundle)
    plan = msgspec.structs.replace(sampler.compile("ddim:4"), name="scheduler:7")  # with a strength that leaves 4 of 7
    said = finite_checks.describe_divergence(np.full(3, 99.0, np.float32), plan, sampler.bundle.manifest)
    assert said is not None and said.endswith(": try a solver that clips, --plan dpmpp_2m:7 --clip LIMIT")


@pytest.mark.parametrize(("largest", "is_far"), [(40.0, False), (999.0, False), (-1700.0, True)])
def test_data_of_unknown_range_are_exceeded_by_runs_that_diverged(
    tiny_bundle: Path, largest: float, is_far: bool
) -> None:
    sampler = fewstep.runtime.load(tiny_bundle)
    manifest = msgspec.structs.replace(sampler.bundle.manifest, x_shape=(16, 3))
    said = finite_checks.describe_divergence(np.array([largest], np.float32), sampler.compile("ddim:4"), manifest)
    assert finite_checks.sample_limit(manifest) is None and (said is not None) is is_far
    assert said is None or "reach 1.7e+03, far beyond usual data, which stay within 1000: clip each" in said


def test_samples_far_beyond_the_data_are_named_with_the_fix(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite_checks, "_WARNED", set())

    def loud(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"v": np.full_like(feeds["x"], -1700.0)}

    sampler = fewstep.runtime.load(tiny_bundle).with_network_parts(graph=loud)
    for plan in ("ddim:4", ["ddim:5", "ddim:5"]):
        for _ in range(2):
            sample_of(sampler, plan)(plan, **GIVEN)
        (said,) = caplog.messages  # once for each plan
        assert said.startswith("samples of ddim:") and "far beyond usual data, which stay within 1" in said
        assert said.endswith("such as 1 for images in [-1, 1] (in Python shaping=Clip(-LIMIT, LIMIT))")
        caplog.clear()
        sample_of(sampler, plan)(plan, **GIVEN, shaping=Clip(-1, 1))
        assert not caplog.messages


def test_tiles_far_beyond_the_data_are_named_too(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite_checks, "_WARNED", set())

    def loud(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"v": np.full_like(feeds["x"], -1700.0)}

    sampler = fewstep.runtime.load(tiny_bundle).with_network_parts(graph=loud)
    channels, height, width = sampler.bundle.manifest.x_shape
    sample_tiles(sampler, "ddim:4", (channels, 2 * height, width), Tiles(overlap=0), condition={"class": [1]})
    (said,) = caplog.messages
    assert "far beyond usual data" in said


@pytest.mark.filterwarnings("error")
def test_a_plan_whose_output_overflows_is_refused_rather_than_sampled(sampler: Sampler) -> None:
    plan = sampler.compile("ddim:2")
    last = plan.steps[-1]
    update = tuple(tuple(1e3 * number for number in row) for row in last.update)
    steps = (*plan.steps[:-1], msgspec.structs.replace(last, update=update))
    plan = msgspec.structs.replace(plan, steps=steps, output=tuple(3e38 * number for number in plan.output))
    for plans in (plan, [plan, plan]):
        with pytest.raises(NotFinite, match="the sample is not finite at step 2 of 2"):
            sample_of(sampler, plans)(plans, **GIVEN)


def test_a_weight_of_1_leaves_a_negative_condition_out(sampler: Sampler) -> None:
    negative = sampler.sample("ddim:2", **GIVEN, guidance=1.0, branches={"uncond": {"class": [1, 1]}})
    np.testing.assert_array_equal(negative, sampler.sample("ddim:2", **GIVEN))


def test_far_latents_of_a_scheduler_are_not_to_be_clipped(tiny_bundle: Path) -> None:
    pytest.importorskip("tokenizers")
    from tests.runtime.text_bundle import with_companions

    sampler = fewstep.runtime.load(with_companions(tiny_bundle))
    plan = msgspec.structs.replace(sampler.compile("ddim:4"), name="scheduler:4")
    said = finite_checks.describe_divergence(np.full(3, 99.0, np.float32), plan, sampler.bundle.manifest)
    assert said is not None and said.endswith(": try more steps, or another solver, --plan dpmpp_2m:4")
