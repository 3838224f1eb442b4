"""The whole search on a body of six convolutions, deployed and read back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_calibrate import SHAPE, write_bundle

from fewstep.calibration.calibrate import CalibrateOptions, Calibration, calibrate
from fewstep.calibration.evaluation.metrics import psnr
from fewstep.calibration.precision.course import SELECTION_SEEDS
from fewstep.calibration.precision.record import decode, parse_bound
from fewstep.calibration.precision.refine import Bound
from fewstep.calibration.precision.search import step_time
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.runtime.bundle import open_bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.loading import load

WIDTH, LAYERS = 16, 4


def deep() -> Graph:
    """1 -> 16 -> ... -> 1 channels; the inner convolutions can be lowered. One of them has an outlier that costs it
    most of its levels."""
    rng = np.random.default_rng(0)
    widths = (1, *(WIDTH,) * (LAYERS + 1), 1)
    weights = {
        f"w{i}": (rng.standard_normal((out, into, 3, 3)) / (3 * into**0.5)).astype(np.float32)
        for i, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True))
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes, last = [], "x"
    for i in range(len(weights)):
        made = "v" if i == len(weights) - 1 else f"h{i}"
        nodes.append(Node("Conv", (last, f"w{i}"), (made,), pads))
        if made != "v":
            nodes += [Node("Mul", (made, "row"), (f"m{i}",)), Node("Tanh", (f"m{i}",), (f"a{i}",))]
            last = f"a{i}"
    f32 = np.dtype(np.float32)
    inputs = (Value("x", f32, (BATCH, *SHAPE)), Value("row", f32, (BATCH, 1, 1, 1)))
    return Graph("body", inputs, (Value("v", f32, (BATCH, *SHAPE)),), tuple(nodes), weights)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("deep") / "bundle", deep())


def run(bundle: Path, **changes: object) -> Calibration:
    first = CalibrateOptions(bundle, plan="ddim:3", target=("cpu-x86",), trajectories=4)
    return calibrate(replace(first, **changes))  # type: ignore[arg-type]


def quality(bundle: Path, samples: int = 16) -> float:
    seeds = SELECTION_SEEDS[:samples]
    given = {"seeds": seeds, "condition": {"class": [seed % 2 for seed in seeds]}}
    exact, int8 = (load(bundle, each).sample("ddim:3", guidance=2.0, **given) for each in ("float32", "int8"))
    return float(psnr(int8, exact).mean())


def test_a_quality_that_all_int8_misses_is_reached_by_what_is_deployed(made: Path) -> None:
    everything = run(made)
    assert everything.manifest.bodies["int8-cpu-x86"].stages == () and everything.manifest.precision is None
    before = quality(made)
    found = run(made, quality=f"{before + 3:.1f}dB").refined["int8-cpu-x86"]
    assert found.sensitivity.operations == ("h1", "h2", "h3", "h4")
    assert found.sensitivity.quality == pytest.approx(before, abs=1e-3)
    assert found.sensitivity.gains.shape == (4, 3)
    body = open_bundle(made).manifest.bodies["int8-cpu-x86"]
    assert [stage.until for stage in body.stages] == [until for until, _ in found.stages[:-1]]
    assert len(found.stages) <= 3 and found.stages[-1][0] == 3
    deployed = quality(made)
    assert deployed >= before + 2.9
    assert deployed == pytest.approx(found.point.quality, abs=1e-3)  # the search measures what is deployed
    assert found.point.time == pytest.approx(step_time(found.point.choice, found.sensitivity.costs, np.full(3, 1 / 3)))


def test_the_map_is_kept_and_the_command_says_what_was_asked(made: Path) -> None:
    manifest = run(made, quality="45").manifest
    assert manifest.provenance.commands[-1].endswith("--quality 45")
    (kept,) = decode((made / str(manifest.precision)).read_bytes())
    assert (kept.body, kept.plan, kept.asked, len(kept.gains)) == ("int8-cpu-x86", "ddim:3", "45dB", 4)
    times = [point.time for point in kept.frontier]
    assert times == sorted(times) and kept.frontier[0].quality >= kept.all_int8 - 1e-3
    assert run(made).manifest.precision is None


def test_a_bound_out_of_reach_names_the_best_found_and_changes_nothing(made: Path) -> None:
    before = (made / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=r"no precision map reaches 250 dB: the best found has 200\.0 dB"):
        run(made, quality="250dB")  # of all in float, which is as good as it gets
    with pytest.raises(UserError, match="no precision map is 900 times as fast as float32"):
        run(made, speed="900x")
    assert (made / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"quality": "good"}, "quality 'good' is no bound; write it as 44dB"),
        ({"speed": "-1"}, "speed '-1' is no bound; write it as 1.5x"),
        ({"quality": "44", "speed": "2"}, "give one"),
        ({"quality": "44dB", "target": ("tensorrt",)}, "a precision map for tensorrt: it is measured where"),
    ],
)
def test_bounds_that_make_no_sense_are_named(made: Path, asked: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(made, **asked)


def test_bounds_in_words() -> None:
    assert parse_bound("44.5 dB", None) == Bound(quality=44.5)
    assert parse_bound(None, "1.5X") == Bound(speed=1.5)
    assert parse_bound(None, None) is None


def test_all_in_float_is_the_float_body_and_is_said(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Enough asked for, all steps leave int8 altogether; such a graph takes no range group."""
    found = run(made, quality="80dB").refined["int8-cpu-x86"]
    assert found.point.choice == (frozenset(range(LAYERS)),) * 3
    body = open_bundle(made).manifest.bodies["int8-cpu-x86"]
    assert (body.stages, body.groups) == ((), ())
    assert quality(made) == found.point.quality == 200.0  # the ceiling: equal
    assert "int8-cpu-x86 runs nothing in int8: of all that was tried, only float32 itself fits 80dB" in caplog.text
