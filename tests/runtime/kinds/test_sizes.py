"""Free sizes at run time: the allowed values, and that a sample of any size equals that of a fixed shape."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.cli.conditions import parse_conditions
from fewstep.literature.streams import stream
from fewstep.plans.noise import normal
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime import Hold, Sampler, UserError, load
from fewstep.runtime.bundle.manifest import Description, Manifest, Size
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.sizes import apply_sizes, infer_sizes, resolve_dimension, sizes_of
from fewstep.runtime.runs import Tiles, sample_tiles
from tests.free_size_bundle import HEIGHT, WIDTH, free
from tests.refusals import refuses

PLAN = "dpmpp_2m:3"
AXES = {1: "height", 2: "width"}
CLASSES = {"class": ["bag", "shirt"]}


def test_a_size_without_a_multiple_takes_every_number() -> None:
    assert Size("width", 2, 8, 10) == msgspec.json.decode(b'{"name":"width","axis":2,"low":8,"high":10}', type=Size)
    assert Size("width", 2, 8, 10).range == "width 8 to 10"


@pytest.fixture
def bundle(tiny_bundle: Path) -> Path:
    return free(tiny_bundle)


@pytest.fixture
def sampler(bundle: Path) -> Sampler:
    return load(bundle)


@pytest.mark.parametrize("schema", [2, 3])
def test_a_bundle_of_an_earlier_schema_has_conditions_that_follow_sizes(bundle: Path, schema: int) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": schema}))
    assert open_bundle(bundle).manifest.conditions[-1].follows == {1: "height*2", 2: "width"}


def picture(height: int, width: int, samples: int = 2) -> np.ndarray:
    return np.random.default_rng(height * width).standard_normal((samples, 1, 2 * height, width), np.float32)


@pytest.mark.parametrize("height, width", [(4, 4), (2, 8), (12, 8)])
def test_a_sample_has_the_sizes_that_were_asked_for(sampler: Sampler, height: int, width: int) -> None:
    condition = CLASSES | {"picture": picture(height, width)}
    sampler = sampler.with_options(height=height, width=width)
    x = sampler.sample(PLAN, [3, 4], condition)
    assert x.shape == (2, 1, height, width)
    first = next(sampler.steps("ddim:1", [3, 4], condition))
    assert np.allclose(first.u[0], normal(3, 0, (1, height, width)), rtol=1e-5)
    alone = sampler.sample(PLAN, [4], {"class": ["shirt"], "picture": condition["picture"][1:]})
    assert np.array_equal(x[1:], alone)


def test_sizes_that_are_not_given_have_their_defaults(sampler: Sampler) -> None:
    condition = CLASSES | {"picture": picture(4, 4)}
    default = sampler.sample(PLAN, [0, 1], condition)
    assert default.shape == (2, 1, 4, 4)
    assert np.array_equal(default, sampler.with_options(height=4).sample(PLAN, [0, 1], condition))


def test_a_plan_for_each_sample_holds_at_any_size(sampler: Sampler) -> None:
    condition = CLASSES | {"picture": picture(6, 8)}
    sampler = sampler.with_options(height=6, width=8)
    mixed = sampler.sample_each([PLAN, "ddim:2"], [0, 1], condition)
    for place, plan in enumerate((PLAN, "ddim:2")):
        assert np.allclose(mixed[place], sampler.sample(plan, [0, 1], condition)[place], atol=1e-6)


def test_given_and_held_tensors_have_the_sizes_of_the_run(sampler: Sampler) -> None:
    condition, sampler = (
        CLASSES | {"picture": picture(2, 8)},
        sampler.with_options(height=4).with_options(height=2, width=8),
    )
    given = {"image": np.zeros((2, 1, 2, 8), np.float32)}
    assert sampler.sample(PLAN, [0, 1], condition, given=given, strength=0.5).shape == (2, 1, 2, 8)
    hold = Hold(np.full((1, 2, 8), 0.25, np.float32), np.ones((1, 2, 8), np.float32))
    assert np.array_equal(sampler.sample(PLAN, [0, 1], condition, hold=hold), np.full((2, 1, 2, 8), 0.25))
    with refuses(("given 'image' has the shape", "not [2, 1, 2, 8]")):
        sampler.sample(PLAN, [0, 1], condition, given={"image": np.zeros((2, 1, 4, 4))}, strength=0.5)


def test_the_bare_network_takes_its_sizes_from_x(sampler: Sampler) -> None:
    x, shown = np.ones((2, 1, 6, 8), np.float32), picture(6, 8)
    made = sampler.evaluate(x, 50.0, CLASSES | {"picture": shown})
    expected = 0.5 + np.array([0.3, 0.1])[:, None, None, None] + 0.05 + shown[:, :, :6]
    assert np.allclose(made, expected, atol=1e-6)
    for shape in ((2, 1, 5, 8), (2, 1, 14, 8)):
        with refuses(f"height {shape[2]}", "height 2 to 12 in steps of 2"):
            sampler.evaluate(np.ones(shape, np.float32), 50.0, CLASSES | {"picture": shown})
    with refuses("[2, 3, 6, 8]", "[B, 1, height, width]"):
        sampler.evaluate(np.ones((2, 3, 6, 8), np.float32), 50.0, CLASSES | {"picture": shown})


@pytest.mark.parametrize(
    "sizes, said",
    [
        ({"height": 5}, "height 5 is not a multiple of 2; give height 2 to 12 in steps of 2"),
        ({"height": 14}, "height 14 is outside its range"),
        ({"width": 4, "depth": 3}, "unknown size 'depth'; it has height 2 to 12 in steps of 2, width 4 to 8"),
        ({"height": 4.0}, "height 4.0 is not a whole number"),
        ({"height": True}, "height True is not a whole number"),
        ({"height": np.array([4, 6])}, r"height array\(\[4, 6\]\) is not a whole number"),
        (
            {"height": 6},
            r"one value has the shape \[1, 8, 4\]; give float32 values of .*\[1, 12, 4\].* choose the free size: "
            r"sampler.with_options\(height=4, width=4\)",
        ),
    ],
)
def test_sizes_that_cannot_be_are_one_line(sampler: Sampler, sizes: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sampler.with_options(**sizes).sample(PLAN, [0, 1], CLASSES | {"picture": picture(4, 4)})


@pytest.mark.parametrize(("height", "width"), [(5, 4), (14, 4), (4, 9)])
def test_sizes_outside_their_range_are_not_advised(sampler: Sampler, height: int, width: int) -> None:
    with pytest.raises(UserError, match="one value has the shape") as refusal:
        sampler.sample(PLAN, [0, 1], CLASSES | {"picture": picture(height, width)})
    assert "free size" not in str(refusal.value)


def test_files_of_sizes_in_their_range_are_advised_with_them(sampler: Sampler, tmp_path: Path) -> None:
    manifest, file = sampler.bundle.manifest, tmp_path / "picture.npy"
    for height, advice in ((6, "choose the free size: --size height=6 --size width=4"), (14, "")):
        np.save(file, picture(height, 4))
        with pytest.raises(UserError, match="has the shape") as refusal:
            parse_conditions([f"picture=@{file}"], manifest.conditions, axes=manifest.sizes)
        assert str(refusal.value).endswith(advice) and ("free size" in str(refusal.value)) == bool(advice)


def test_a_bundle_of_one_shape_takes_no_sizes(tiny_bundle: Path) -> None:
    with refuses("[1, 4, 4]", "leave sizes out"):
        load(tiny_bundle).with_options(height=8)


def test_each_backend_runs_every_size(bundle: Path, sampler: Sampler) -> None:
    pytest.importorskip("openvino")
    from fewstep.runtime.backends.openvino import OpenVino

    other = load(bundle, backend=OpenVino(cached=False))
    for height, width in ((4, 4), (2, 8), (4, 4), (12, 8)):
        condition = CLASSES | {"picture": picture(height, width)}
        own, expected = (
            each.with_options(height=height, width=width).sample(PLAN, [0, 1], condition) for each in (other, sampler)
        )
        assert np.allclose(own, expected, atol=1e-5)


@pytest.mark.slow
def test_threads_of_other_sizes_share_a_sampler(bundle: Path) -> None:
    pytest.importorskip("openvino")
    from fewstep.runtime.backends.openvino import OpenVino

    shapes = [(height, width) for height in (2, 4, 8, 12) for width in (4, 8)] * 4
    for sampler in (load(bundle), load(bundle, backend=OpenVino(cached=False))):

        def draw(shape: tuple[int, int], sampler: Sampler = sampler) -> np.ndarray:
            condition = {"class": ["bag"], "picture": picture(*shape, samples=1)}
            return sampler.with_options(height=shape[0], width=shape[1]).sample(PLAN, [sum(shape)], condition)

        alone = {shape: draw(shape) for shape in set(shapes)}
        with ThreadPoolExecutor(8) as pool:
            for shape, x in zip(shapes, pool.map(draw, shapes), strict=True):
                np.testing.assert_array_equal(x, alone[shape])


def test_more_than_a_sample_can_hold_is_one_line(bundle: Path) -> None:
    wide = [{"name": name, "axis": axis, "low": 4, "high": 2**24, "multiple": 4} for axis, name in AXES.items()]
    manifest = msgspec.structs.replace(open_bundle(bundle).manifest, sizes=msgspec.convert(wide, tuple[Size, ...]))
    with refuses("[1, 16777216, 16777216]", "smaller sizes"):
        apply_sizes(manifest, {"height": 2**24, "width": 2**24})


@pytest.mark.parametrize("name", ["sizes", "adapters"])
def test_what_is_chosen_once_is_no_option_of_a_run(sampler: Sampler, name: str) -> None:
    for run in (sampler.sample, sampler.compile, partial(sample_tiles, sampler, shape=(), tiles=Tiles(0)), stream):
        with refuses(f"'{name}'", "sampler.with_options("):
            run(*[sampler] * (run is stream), plan=PLAN, **{name: {}})


def test_a_manifest_at_other_sizes_has_numbers_everywhere(bundle: Path) -> None:
    manifest: Manifest = apply_sizes(open_bundle(bundle).manifest, {"height": 10})
    assert manifest.x_shape == (1, 10, 4)
    assert manifest.conditions[1].shape == (1, 20, 4)
    assert sizes_of((1, 10, 8), manifest) == {"height": 10, "width": 8}
    assert sizes_of((2, 10, 8), manifest) is None
    assert sizes_of((10, 8), manifest) is None


@pytest.mark.parametrize(
    "size, value",
    [(7, 7), ("height", 64), ("height/8", 8), ("width*2", 96), ("height*width/64", 48), ("height*3/2", 96)],
)
def test_a_dimension_follows_from_the_sizes(size: int | str, value: int) -> None:
    assert resolve_dimension(size, {"height": 64, "width": 48}) == value


@pytest.mark.parametrize("size", ["", "height/", "8/height", "height-1", "height/0", "height*", "64"])
def test_what_is_no_dimension_is_refused(size: str) -> None:
    with pytest.raises(ValueError):
        resolve_dimension(size, {"height": 64})


def test_sizes_are_read_off_a_shape() -> None:
    assert infer_sizes(("batch", 3, "height*8", "width/2"), (2, 3, 512, 12)) == {"batch": 2, "height": 64, "width": 24}
    assert infer_sizes(("batch", "height*width/4", 8), (2, 96, 8)) == {"batch": 2}


def test_two_sizes_of_one_name_or_axis_are_a_problem() -> None:
    plain = partial(Description, "d", conditions=(), prediction="v", schedule=ScheduleSpec("cosine"))
    assert HEIGHT.problem(plain(x_shape=(1, 4, 4), sizes=(HEIGHT, WIDTH))) is None
    both = plain(x_shape=(1, 4, 4), sizes=(HEIGHT, Size("tall", 1, 2, 8)))
    assert "another size has this name or axis 1" in HEIGHT.problem(both)
    heads = plain(x_shape=(4, 4), heads=2)
    assert "axis 0 cannot be free" in Size("length", 0, 2, 8).problem(heads)
