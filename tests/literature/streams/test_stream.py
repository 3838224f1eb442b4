"""Each streamed frame is the sample of that frame alone, in order, none lost or doubled; and the failures of other
implementations.
"""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fewstep.runtime
from fewstep.literature.streams import SimilarityFilter, stream
from fewstep.plans.guidance import Cfg, Residual
from fewstep.plans.noise import uniform
from fewstep.runtime import Sampler, UserError
from tests.refusals import refuses
from tests.runtime.runs.conftest import Analytic

DRESS, BAG = {"class": ["dress"]}, {"class": ["bag"]}
FRAMES = np.random.default_rng(0).uniform(-1, 1, (40, 1, 4, 4)).astype(np.float32)
LCM = {"plan": "lcm:7", "strength": 0.6, "condition": DRESS}  # four steps


def alone(sampler: Sampler, frame: np.ndarray, seed: int, **options) -> np.ndarray:
    plan, condition = options.pop("plan"), options.pop("condition")
    (x,) = sampler.sample(plan, [seed], condition, **options, given={"image": frame[None]})
    return x


@pytest.mark.parametrize("mode", ["batch", "sequence"])
@pytest.mark.parametrize("noise", ["fixed", "fresh"])
@pytest.mark.parametrize(
    "guidance", [None, 2.0, Residual(1.4), Residual(1.4, 0.9, "onetime"), Cfg((3.0, 1.0))], ids=str
)
def test_every_frame_is_the_sample_of_it_alone(sampler: Sampler, mode, noise, guidance) -> None:
    out = list(stream(sampler, **LCM, guidance=guidance, mode=mode, noise=noise, seed=5)(FRAMES[:9]))
    assert [each.index for each in out] == list(range(9))
    for each, frame in zip(out, FRAMES, strict=False):
        assert each.fresh and each.seed == (5 if noise == "fixed" else 5 + each.index)
        expected = alone(sampler, frame, each.seed, **LCM, guidance=guidance)
        np.testing.assert_array_equal(each.sample, expected)


def test_a_stream_on_an_engine_gives_the_bits_of_sample(tiny_bundle: Path) -> None:
    with fewstep.runtime.load(tiny_bundle) as sampler:
        for each, frame in zip(stream(sampler, **LCM, mode="batch")(FRAMES[:6]), FRAMES, strict=False):
            np.testing.assert_array_equal(each.sample, alone(sampler, frame, 0, **LCM))


def test_the_first_frame_leaves_after_all_its_steps_and_the_last_ones_are_flushed(sampler: Sampler) -> None:
    """In other implementations N - 1 brown frames come first, and N - 1 never come."""
    frames = stream(sampler, **LCM, mode="batch")
    counts = [len(frames.push(frame)) for frame in FRAMES[:6]]
    assert counts == [0, 0, 0, 1, 1, 1]
    assert [each.index for each in frames.flush()] == [3, 4, 5] and frames.flush() == []
    assert frames.stats().in_flight == 0


@pytest.mark.parametrize(
    ("guidance", "first", "each"),
    [(None, 1, 1), (Residual(1.4), 1, 1), (Residual(1.4, 1.0, "onetime"), 2, 1), (2.0, 2, 2)],
    ids=str,
)
def test_a_call_serves_all_frames_on_their_way(sampler: Sampler, network: Analytic, guidance, first, each) -> None:
    """For 4 frames in progress: N rows, N + 1 with one evaluation of the other branch, 2 N with classifier-free
    guidance.
    """
    frames = stream(sampler, **LCM, guidance=guidance, mode="batch")
    for frame in FRAMES[:8]:
        frames.push(frame)
    assert network.batches == [first + each * lane for lane in (0, 1, 2, 3, 3, 3, 3, 3)]
    assert frames.stats().calls == 8


def test_steps_of_different_range_groups_are_in_different_calls(two_groups: Sampler) -> None:
    frames = stream(two_groups, **LCM, mode="batch")
    out = list(frames(FRAMES[:8]))
    groups = {step.group for step in two_groups.compile("lcm:7", strength=0.6).steps}
    assert len(groups) == 2 and frames.stats().calls > 8
    for each, frame in zip(out, FRAMES, strict=False):
        np.testing.assert_array_equal(each.sample, alone(two_groups, frame, 0, **LCM))


def test_settings_may_come_at_once(sampler: Sampler) -> None:
    """A changed prompt shows without the frames of the old one."""
    frames = stream(sampler, **LCM, mode="batch")
    for frame in FRAMES[:3]:
        frames.push(frame)
    frames.set(condition=BAG, now=True)
    assert [each.index for frame in FRAMES[3:8] for each in frames.push(frame)] == [3, 4]
    assert frames.stats().dropped == 3


def test_batches_on_an_engine_of_one_sample_are_the_engine_s_line(sampler: Sampler, network: Analytic) -> None:
    def of_one(feeds):
        if len(feeds["x"]) > 1:
            raise UserError(f"a batch of {len(feeds['x'])} samples, the engine takes 1", "build it again")
        return network(feeds)

    engine = sampler.with_network_parts(graph=of_one)
    for each, frame in zip(stream(engine, **LCM)(FRAMES[:5]), FRAMES, strict=False):
        np.testing.assert_array_equal(each.sample, alone(sampler, frame, 0, **LCM))
    frames = stream(engine, **LCM, mode="batch")
    frames.push(FRAMES[0])
    with refuses("takes 1", "build it again"):
        frames.push(FRAMES[1])
    assert frames.stats().dropped == 2


def test_settings_that_are_wrong_change_nothing(sampler: Sampler) -> None:
    frames = stream(sampler, **LCM, mode="sequence")
    for wrong, line in [
        ({"plan": "nothing:4"}, "nothing"),
        ({"condition": {"class": ["cat"]}}, "cat"),
        ({"condition": {"clas": [1]}}, "unknown condition 'clas'; it takes 'class'"),
        ({"condition": [1]}, r"condition \[1\] is not a mapping of names to values"),
        ({"strength": 2.0}, "strength"),
        ({"prompt": "a cat"}, "a stream has no option 'prompt'"),
        ({"branches": {"unkond": DRESS}}, "branches sets 'unkond'"),
        ({"branches": {"uncond": DRESS}}, "give a guidance"),
        ({"hold": {}}, "a stream has no option 'hold'"),
    ]:
        with pytest.raises(UserError, match=line):
            frames.set(**wrong)
    (out,) = frames.push(FRAMES[0])
    np.testing.assert_array_equal(out.sample, alone(sampler, FRAMES[0], 0, **LCM))


def test_a_frame_that_is_wrong_is_refused_and_the_stream_goes_on(sampler: Sampler) -> None:
    frames = stream(sampler, **LCM, mode="batch")
    frames.push(FRAMES[0])
    for wrong, line in [
        (FRAMES[0][:, :3], "has the shape .*, not"),
        (FRAMES[:2], "has the shape .*, not"),  # elsewhere one of two frames is taken
        (np.full((1, 4, 4), np.nan), "not finite"),
        (np.full((1, 4, 4), 200, np.uint8), "uint8 values up to 200"),
        (None, "starts from 'image'"),
        ({"picture": FRAMES[0]}, "does not take 'picture'"),
        ([[1, 2], [3]], "not an array of numbers"),
    ]:
        with pytest.raises(UserError, match=line):
            frames.push(wrong)
    with refuses("0", "from 1 up"):
        frames.push(FRAMES[1], index=0)
    out = [each for frame in FRAMES[1:4] for each in frames.push(frame)]
    assert [each.index for each in out] == [0] and frames.stats().frames == 4


def test_an_overflow_drops_the_frames_on_their_way_and_the_stream_goes_on(sampler: Sampler, network: Analytic) -> None:
    frames = stream(sampler, **LCM, mode="batch")
    frames.push(FRAMES[0])
    frames._sampler = sampler.with_network_parts(graph=lambda feeds: {"v": feeds["x"] * np.inf})
    with pytest.raises(UserError, match="not finite at step"):
        frames.push(FRAMES[1])
    frames._sampler = sampler
    out = [each for frame in FRAMES[2:8] for each in frames.push(frame)]
    assert [each.index for each in out] == [2, 3, 4] and frames.stats().dropped == 2


def test_a_caller_may_reuse_its_buffer(sampler: Sampler) -> None:
    frames, buffer = stream(sampler, **LCM, mode="batch", guidance=Residual(1.4)), np.empty((1, 4, 4), np.float32)
    out = []
    for frame in FRAMES[:6]:
        buffer[:] = frame
        out += frames.push(buffer)
    for each in out:
        expected = alone(sampler, FRAMES[each.index], 0, **LCM, guidance=Residual(1.4))
        np.testing.assert_array_equal(each.sample, expected)


def test_frames_may_bring_their_conditions(sampler: Sampler) -> None:
    frames = stream(sampler, plan="lcm:7", strength=0.6, mode="batch")
    labels = [0, 2, 1, 0, 2]
    out = list(frames([{"image": frame, "class": label} for frame, label in zip(FRAMES, labels, strict=False)]))
    for each, label in zip(out, labels, strict=True):
        expected = alone(sampler, FRAMES[each.index], 0, **{**LCM, "condition": {"class": [label]}})
        np.testing.assert_array_equal(each.sample, expected)
    with pytest.raises(UserError, match="class"):
        frames.push(FRAMES[0])


def test_frames_of_nothing_are_samples_of_their_seeds(sampler: Sampler) -> None:
    frames = stream(sampler, plan="dpmpp_2m:4", condition=DRESS, noise="fresh", mode="batch")
    out = list(frames([None] * 6))
    expected = sampler.sample("dpmpp_2m:4", range(6), {"class": ["dress"] * 6})
    np.testing.assert_array_equal(np.stack([each.sample for each in out]), expected)


STILL = [FRAMES[0]] * 60


def test_a_still_scene_takes_a_tenth_of_the_calls_and_nothing_is_frozen(sampler: Sampler, network: Analytic) -> None:
    """In other implementations a skipped frame leaves those before it in the pipeline."""
    frames = stream(sampler, **LCM, mode="batch", similar=SimilarityFilter(0.98, 10_000))
    out = [each for frame in STILL for each in frames.push(frame)]
    stats = frames.stats()
    assert 10 * len(network.batches) <= 4 * len(STILL) and stats.calls == 4
    assert [each.index for each in out] == list(range(60)) and stats.in_flight == 0
    assert [each.fresh for each in out] == [True] + [False] * 59 and stats.skipped == 59
    for each in out:
        np.testing.assert_array_equal(each.sample, alone(sampler, FRAMES[0], 0, **LCM))


def test_a_sample_may_be_written_on(sampler: Sampler) -> None:
    """The sample of a skipped frame is a copy of the one before."""
    expected = alone(sampler, FRAMES[0], 0, **LCM)
    for each in stream(sampler, **LCM, mode="sequence", similar=SimilarityFilter(0.98, 1000))(STILL[:4]):
        np.testing.assert_array_equal(each.sample, expected)
        each.sample[:] = 7


@pytest.mark.parametrize(
    ("similar", "shown", "fresh"),
    [
        (SimilarityFilter(), [0] * 34, [0, 11, 22, 33]),  # by default ten skips, as in the authors' code
        (SimilarityFilter(0.98, 3), [0] * 3 + [1] * 5, [0, 3, 7]),
    ],
)
def test_after_the_largest_number_of_skips_in_a_row_a_frame_is_processed(
    sampler: Sampler, similar: SimilarityFilter, shown: list[int], fresh: list[int]
) -> None:
    """The count begins at the last processed frame. In the authors' code the count is only reset at the limit, so a
    scene that soon moves again has fewer skips.
    """
    frames = stream(sampler, **LCM, mode="sequence", similar=similar)
    assert [frame.index for frame in frames(FRAMES[shown]) if frame.fresh] == fresh


def test_a_frame_is_skipped_by_its_cosine_with_the_last_processed_one(sampler: Sampler) -> None:
    """With the chance 1 - (1 - cos) / (1 - threshold), as in the authors' code, on frames that change direction and
    fade.
    """
    one, angles = FRAMES[0], np.linspace(0, 3, 60)
    other = FRAMES[1] - one * np.vdot(FRAMES[1], one) / np.vdot(one, one)
    other *= np.linalg.norm(one) / np.linalg.norm(other)
    film = [(np.cos(angle) * one + np.sin(angle) * other) / (3 + angle) for angle in angles]
    out = stream(sampler, **LCM, mode="sequence", similar=SimilarityFilter(most=1000), seed=5)(np.float32(film))
    processed = [0]
    for index, angle in enumerate(angles[1:], 1):
        if 1 - (1 - np.cos(angle - angles[processed[-1]])) / 0.02 < uniform(5, index):
            processed.append(index)
    assert [each.index for each in out if each.fresh] == processed and 10 < len(processed) < 40


def test_a_change_of_settings_is_seen_on_a_still_scene(sampler: Sampler) -> None:
    frames = stream(sampler, **LCM, mode="sequence", similar=SimilarityFilter(0.98, 1000))
    out = [each for frame in STILL[:5] for each in frames.push(frame)]
    frames.set(condition=BAG)
    out += [each for frame in STILL[:5] for each in frames.push(frame)]
    assert [each.fresh for each in out] == ([True] + [False] * 4) * 2
    np.testing.assert_array_equal(out[-1].sample, alone(sampler, FRAMES[0], 0, **{**LCM, "condition": BAG}))


@pytest.mark.parametrize("first, second", [(0, 2), ("dress", "bag"), (np.uint8(0), np.uint8(2))])
@pytest.mark.parametrize("named", [{"image": FRAMES[0]}, {}], ids=["an image", "no image"])
def test_another_condition_is_seen_on_a_still_scene(sampler: Sampler, named: dict, first, second) -> None:
    """A label is not a pixel: among many pixels it would hardly change the cosine."""
    plan = {"plan": "lcm:7", "strength": 0.6} if named else {"plan": "lcm:4"}
    frames = stream(sampler, **plan, mode="sequence", similar=SimilarityFilter(0.0, 1000))
    labels = [first, first, second, second, first]
    out = list(frames([{**named, "class": label} for label in labels]))
    assert [each.fresh for each in out] == [True, False, True, False, True]
    given = {"given": {"image": FRAMES[:1]}} if named else {}
    for each, label in zip(out, labels, strict=True):
        expected = sampler.sample(plan["plan"], [0], {"class": [label]}, strength=plan.get("strength"), **given)
        np.testing.assert_array_equal(each.sample, expected[0])


def test_a_condition_of_the_settings_is_not_one_of_the_frame_before(sampler: Sampler) -> None:
    frames = stream(sampler, **LCM, mode="sequence", similar=SimilarityFilter(0.0, 1000))
    out = list(frames([{"image": FRAMES[0], "class": "bag"}, FRAMES[0], FRAMES[0]]))
    assert [each.fresh for each in out] == [True, True, False]
    np.testing.assert_array_equal(out[-1].sample, alone(sampler, FRAMES[0], 0, **LCM))


def test_statistics_are_those_of_the_clock(sampler: Sampler) -> None:
    ticks = iter(np.arange(0, 100, 0.5))
    frames = stream(sampler, **LCM, mode="sequence", clock=lambda: float(next(ticks)))
    out = list(frames(FRAMES[:4]))
    stats = frames.stats()
    assert [each.latency_s for each in out] == [0.5] * 4 and stats.latency_p99_s == 0.5
    assert stats.fps == 4 / 3.5 and stats.frames == stats.out == 4 and stats.calls == 16


PLANS = ["lcm:2", "lcm:7", "ddim:4", "dpmpp_2m:5"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_under_random_pushes_changes_skips_and_gaps_every_frame_is_itself(sampler: Sampler, data) -> None:
    """In order, none lost or doubled: results and dropped frames are all frames."""
    similar = data.draw(st.sampled_from([None, SimilarityFilter(0.5, 3)]))
    mode = data.draw(st.sampled_from(["batch", "sequence"]))
    frames = stream(sampler, **LCM, mode=mode, similar=similar, noise="fresh")
    options, of_frame, picture_of, out, index, processed = LCM, {}, {}, [], 0, {}
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["push", "push", "push", "push", "gap", "set", "flush", "now"]))
        if action == "push" or action == "gap":
            index += 2 if action == "gap" else 0
            of_frame[index], picture_of[index] = options, data.draw(st.integers(0, 2))
            out += frames.push(FRAMES[picture_of[index]], index)
            index += 1
        elif action == "flush":
            out += frames.flush()
        else:
            changes = {"plan": data.draw(st.sampled_from(PLANS)), "condition": data.draw(st.sampled_from([DRESS, BAG]))}
            frames.set(now=action == "now", **changes)
            options = {**options, **changes}
    out += frames.flush()
    indices = [each.index for each in out]
    assert indices == sorted(set(indices)) and set(indices) <= of_frame.keys()
    assert len(out) + frames.stats().dropped == index
    for each in out:
        if each.fresh:
            processed = {"frame": FRAMES[picture_of[each.index]], "seed": each.index, **of_frame[each.index]}
        np.testing.assert_array_equal(each.sample, alone(sampler, **processed))


@pytest.mark.parametrize("count", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_is_flat(sampler: Sampler, count: int) -> None:
    """The number of living objects, including arrays. The network keeps no list here."""
    quiet = sampler.with_network_parts(graph=lambda feeds: {"v": np.tanh(feeds["x"]) + feeds["row"][:, :, None, None]})
    frames = stream(quiet, **LCM, mode="batch", similar=SimilarityFilter(0.9, 3), guidance=Residual(1.2))
    for number in range(1100):  # the latencies are then as many as are kept
        frames.push(FRAMES[number % 40])
    gc.collect()
    before = sys.getallocatedblocks()
    for number in range(count):
        frames.push(FRAMES[number % 40])
    gc.collect()
    assert sys.getallocatedblocks() - before < 300 and frames.stats().frames == count + 1100


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"noise": "new"},
            "noise 'new' or mode 'sequence' is unknown; give noise fixed or fresh, and mode batch or sequence",
        ),
        ({"seed": -1}, "seed"),
        ({"similar": 0.98}, "similar 0.98 is not a filter; give fewstep.literature.streams.SimilarityFilter"),
        ({"similar": True}, "similar True is not a filter; give fewstep.literature.streams.SimilarityFilter"),
    ],
)
def test_options_that_cannot_be(sampler: Sampler, wrong: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        stream(sampler, **LCM, **wrong)
    with pytest.raises(UserError, match="not a valid filter"):
        SimilarityFilter(1.0)


@pytest.mark.parametrize("index", [-1, 2.5, "1"])
def test_the_index_of_a_frame_is_a_whole_number(sampler: Sampler, index: object) -> None:
    with refuses(repr(index), "from 0 up"):
        stream(sampler, **LCM, mode="batch").push(FRAMES[0], index=index)
