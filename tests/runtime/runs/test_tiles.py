"""Windows give the sample of the whole if the network's receptive field is within their overlap."""

import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.plans.plan import Tensor
from fewstep.plans.transforms import tail, tail_inputs
from fewstep.runtime import Hold, Sampler, UserError
from fewstep.runtime.runs import Tiles, sample_tiles, tiled_steps
from tests.bundles import with_manifest_fields
from tests.free_size_bundle import HEIGHT, WIDTH, free

LABEL = {"class": ["dress"]}


def blur(x: np.ndarray, reach: int) -> np.ndarray:
    """A convolution with zero padding, with a reach of `reach` elements along the last two axes."""
    rows = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    height, width = x.shape[2:]
    shifts = [(i, j) for i in range(2 * reach + 1) for j in range(2 * reach + 1)]
    return sum(rows[:, :, i : i + height, j : j + width] for i, j in shifts) / len(shifts)


def with_sizes(sampler: Sampler, shape: tuple[int, ...], reach: int = 0, batches: list[int] | None = None) -> Sampler:
    """The sampler with another shape, whose network has this reach."""

    def network(feeds):
        if batches is not None:
            batches.append(len(feeds["x"]))
        assert feeds["x"].shape[1:] == shape
        return {"v": (np.tanh(blur(feeds["x"], reach)) + feeds["row"][:, :, None, None]).astype(np.float32)}

    return with_manifest_fields(sampler, x_shape=shape).with_network_parts(graph=network)


WHOLE = (1, 37, 30)


@pytest.fixture
def free_pictures(tiny_bundle: Path) -> Sampler:
    """Height and width are free. The network adds every second row of a picture of twice the height."""

    def network(feeds):
        return {"v": feeds["x"] / 2 + feeds["row"][:, :, None, None] + feeds["picture"][:, :, ::2]}

    sampler = fewstep.runtime.load(free(tiny_bundle))
    sizes = tuple(msgspec.structs.replace(size, low=4, high=64) for size in (HEIGHT, WIDTH))
    return with_manifest_fields(sampler, sizes=sizes).with_network_parts(graph=network)


@pytest.mark.parametrize(
    "tiles", [Tiles(4, 0), Tiles(np.int64(6), 2), Tiles(6, 2, moves=True), Tiles(4, 0, batch=3)], ids=str
)
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_windows_are_the_whole_where_the_network_looks_no_farther(sampler: Sampler, tiles: Tiles, guidance) -> None:
    plan = sampler.compile("dpmpp_2m:5", guidance)
    condition = {"class": ["dress", "bag"]}
    expected = with_sizes(sampler, WHOLE, reach=2).sample(plan, [3, 4], condition)
    made = sample_tiles(with_sizes(sampler, (1, 12, 12), reach=2), plan, WHOLE, tiles, [3, 4], condition=condition)
    np.testing.assert_allclose(made, expected, atol=1e-6)
    far = sample_tiles(with_sizes(sampler, (1, 12, 12), reach=5), plan, WHOLE, tiles, [3, 4], condition=condition)
    assert np.abs(far - with_sizes(sampler, WHOLE, reach=5).sample(plan, [3, 4], condition)).max() > 1e-3


def test_a_network_without_neighbours_gives_the_bits_of_the_whole(sampler: Sampler) -> None:
    plan = sampler.compile("ddpm:4")
    expected = with_sizes(sampler, WHOLE).sample(plan, [3], LABEL)
    made = sample_tiles(with_sizes(sampler, (1, 12, 12)), plan, WHOLE, Tiles(6), [3], condition=LABEL)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("moves", [False, True])
def test_a_tail_s_windows_lie_where_the_whole_run_s_do(sampler: Sampler, moves: bool) -> None:
    """The network reaches beyond the overlap, so that another place of a window gives another sample."""
    small, plan, tiles = with_sizes(sampler, (1, 12, 12), reach=5), sampler.compile("dpmpp_2m:4"), Tiles(4, moves=moves)
    whole = sample_tiles(small, plan, WHOLE, tiles, [3], condition=LABEL)
    states = list(tiled_steps(small, plan, WHOLE, tiles, [3], LABEL))
    for k in (1, 3):
        given = tail_inputs(states[k - 1].after)
        rest = sample_tiles(small, tail(plan, k), WHOLE, tiles, [3], condition=LABEL, given=given)
        np.testing.assert_array_equal(rest, whole)


@pytest.mark.parametrize(("moves", "count"), [(False, 1), (True, 4)])
def test_windows_that_move_lie_elsewhere_at_each_step(sampler: Sampler, moves: bool, count: int) -> None:
    small = with_sizes(sampler, (1, 12, 12))
    corners: dict[float, list[float]] = {}  # of the windows that the network sees, by its time

    def network(feeds):
        corners.setdefault(float(feeds["row"][0, 0]), []).extend(feeds["x"][:, 0, 0, 0])
        return small.network().graph(feeds)

    states = tiled_steps(
        small.with_network_parts(graph=network), "dpmpp_2m:4", WHOLE, Tiles(4, moves=moves), [3], LABEL
    )
    laid = {
        frozenset(tuple(place) for value in values for place in np.argwhere(state.u[0, 0] == value))
        for state, values in zip(list(states), corners.values(), strict=True)
    }
    assert len(laid) == count


def test_values_of_two_sizes_are_one_line(free_pictures: Sampler) -> None:
    pictures = [np.zeros((1, 18, 7), np.float32), np.zeros((1, 16, 4), np.float32)]
    with pytest.raises(UserError, match="'picture'"):
        sample_tiles(
            free_pictures, "ddim:2", (1, 9, 7), Tiles(2), [0, 1], condition={"class": [1, 1], "picture": pictures}
        )


def test_windows_lie_in_time_too(sampler: Sampler) -> None:
    """Along one axis: a recording of 200 frames through a network of 24."""
    plan = sampler.compile("dpmpp_2m:4")
    expected = with_sizes(sampler, (1, 8, 200), reach=3).sample(plan, [1], LABEL)
    made = sample_tiles(with_sizes(sampler, (1, 8, 24), reach=3), plan, (1, 8, 200), Tiles(8, 2), [1], condition=LABEL)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_an_image_and_a_hold_are_those_of_the_whole(sampler: Sampler) -> None:
    plan = sampler.compile("ddim:6", strength=0.5)
    image = np.random.default_rng(0).uniform(-1, 1, (1, *WHOLE)).astype(np.float32)
    hold = Hold(image, (np.arange(30) < 15).astype(np.float32))
    options = {"condition": LABEL, "given": {"image": image}, "hold": hold}
    expected = with_sizes(sampler, WHOLE, reach=1).sample(plan, [1], **options)
    made = sample_tiles(with_sizes(sampler, (1, 12, 12), reach=1), plan, WHOLE, Tiles(4), [1], **options)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_a_hold_may_be_of_lists(sampler: Sampler) -> None:
    """The held value is restored at the end, whatever its type."""
    mask = [1.0] * 4 + [0.0] * 4
    made = sample_tiles(
        sampler, "ddim:4", (1, 4, 8), Tiles(2), [0, 1], condition={"class": [0, 1]}, hold=Hold(0.25, mask)
    )
    assert (made[..., :4] == 0.25).all() and (made[..., 4:] != 0.25).all()


def test_a_window_that_is_the_whole_is_sample(sampler: Sampler) -> None:
    plan = sampler.compile("ddim:4", 2.0)
    made = sample_tiles(sampler, plan, (1, 4, 4), Tiles(2), [0, 1], condition={"class": [0, 1]})
    np.testing.assert_array_equal(made, sampler.sample(plan, [0, 1], {"class": [0, 1]}))


def test_a_plan_runs_in_the_body_s_groups(sampler: Sampler, two_groups: Sampler) -> None:
    """By its name, or compiled for a body of one group."""
    expected = two_groups.sample("ddim:4", [3], LABEL)
    for plan in ("ddim:4", sampler.compile("ddim:4")):
        np.testing.assert_array_equal(
            sample_tiles(two_groups, plan, (1, 4, 4), Tiles(2), [3], condition=LABEL), expected
        )
    other = msgspec.structs.replace(sampler.compile("ddim:4"), schedule="another")
    with pytest.raises(UserError, match="is for schedule another"):
        sample_tiles(sampler, other, (1, 4, 4), Tiles(2), [3], condition=LABEL)


def test_tensors_of_a_plan_have_the_shape_of_the_whole(sampler: Sampler) -> None:
    tensor = Tensor((1, 12, 8), np.ones((1, 12, 8)).tobytes())
    plan = msgspec.structs.replace(sampler.compile("ddim:4"), tensors=(tensor,))
    assert sample_tiles(sampler, plan, (1, 12, 8), Tiles(2), condition=LABEL).shape == (1, 1, 12, 8)
    with pytest.raises(UserError, match="has a tensor .* does not fit"):
        sample_tiles(sampler, plan, (1, 12, 12), Tiles(2), condition=LABEL)


@pytest.mark.slow
def test_the_network_gets_that_number_of_windows_and_memory_is_that_of_the_state(sampler: Sampler) -> None:
    batches: list[int] = []
    window = with_sizes(sampler, (1, 16, 16), reach=1, batches=batches)
    plan, shape = sampler.compile("ddim:2"), (1, 512, 512)
    list(tiled_steps(window, plan, (1, 64, 64), Tiles(4, batch=4), condition=LABEL))
    assert batches == [4, 4, 4, 4, 4, 4, 1] * 2  # of 25 windows
    tracemalloc.start()
    for state in tiled_steps(window, plan, shape, Tiles(4), condition=LABEL):
        assert np.isfinite(state.x0).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 4 * 512 * 512  # sixteen float32 copies of the sample, and nothing that grows with windows


def test_a_condition_that_follows_x_is_cut_as_x_is(free_pictures: Sampler) -> None:
    """The network adds a window of a degraded picture of the whole to its output."""
    sampler, picture = free_pictures, np.random.default_rng(0).uniform(-1, 1, (2, 1, 40, 24)).astype(np.float32)
    plan = sampler.compile("dpmpp_2m:4")
    condition = {"picture": picture, "class": [0, 1]}
    expected = sampler.with_options(height=20, width=24).sample(plan, [5, 6], condition)
    windows = sampler.with_options(height=8, width=8)
    made = sample_tiles(windows, plan, (1, 20, 24), Tiles(2, moves=True, batch=2), [5, 6], condition=condition)
    np.testing.assert_allclose(made, expected, atol=1e-6)
    with pytest.raises(UserError, match="condition 'picture' has the shape"):
        sample_tiles(windows, plan, (1, 24, 24), Tiles(2), [5, 6], condition=condition)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"overlap": -1}, "^overlap -1; give a whole number from 0 up$"),
        ({"overlap": 2, "blend": 3}, "^overlap 2 and blend 3; give a whole number from 0 to 2$"),
        ({"overlap": 2, "batch": 0}, "^batch 0; give a whole number from 1 up$"),
        ({"overlap": 1.5}, "^overlap 1.5; "),
        ({"overlap": "8"}, "^overlap '8'; "),
    ],
)
def test_tiles_that_cannot_be(arguments, said) -> None:
    with pytest.raises(UserError, match=said):
        Tiles(**arguments)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"condition": {"class": [0]}}, "1 value for 2 samples"),
        ({"condition": {"class": [0, 1, 2]}}, "3 values for 2 samples"),
        ({"condition": {"class": 1}}, "not one value per sample"),
        ({"condition": {"clas": 1}}, "unknown condition 'clas'"),
        ({"condition": None}, "'class' is missing"),
        ({"condition": [1]}, r"condition \[1\] is not a mapping of names to values"),
        ({"branches": {"unkond": {"class": [1, 1]}}}, "branches sets 'unkond'.*it has"),
        ({"branches": {"uncond": {"class": [1, 1]}}}, "branches sets 'uncond'.*give a guidance"),
        ({"guidance": 2.0}, "this run has no option 'guidance'; compile the plan with it"),
        ({"strength": 0.5}, r"this run has no option 'strength'; compile .* sampler.compile\(plan, strength=...\)"),
        ({"conditions": {}}, "this run has no option 'conditions'; leave it out"),
        ({"shape": (1, 3, 8)}, "cannot be cut into windows"),
        ({"shape": (8, 8)}, "cannot be cut into windows"),
        ({"shape": (2, 8, 8)}, "cannot be cut into windows"),
        ({"tiles": Tiles(4)}, "overlap by 4"),
        ({"shape": (1, 9999999, 9999999)}, "more than 268435456 elements"),
        ({"shape": 8}, "shape 8 is not a shape"),
        ({"shape": (True, 8, 8)}, r"shape \(True, 8, 8\) is not a shape"),
        ({"shape": (1, 8.0, 8)}, r"shape \(1, 8.0, 8\) is not a shape"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(sampler: Sampler, wrong: dict, said: str) -> None:
    asked = {"shape": (1, 8, 8), "tiles": Tiles(1), "seeds": [0, 1], "condition": {"class": [0, 1]}}
    for run in (tiled_steps, sample_tiles):
        with pytest.raises(UserError, match=said):
            run(sampler, "ddim:2", **asked | wrong)


def test_two_channels_are_no_windows_of_three(sampler: Sampler) -> None:
    with pytest.raises(UserError, match="cannot be cut into windows"):
        sample_tiles(with_sizes(sampler, (3, 4, 4)), "ddim:2", (2, 8, 8), Tiles(0), condition=LABEL)
