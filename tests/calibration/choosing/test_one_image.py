"""One image in the end error: it is measured on more seeds than choose, and taken out unless samples speak against."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.choosing import trials
from fewstep.calibration.choosing.trials import measuring
from fewstep.graph import io
from fewstep.graph.bake.bake import BakeOptions, bake
from fewstep.graph.graph import Graph
from fewstep.lowering.scheme import Target
from fewstep.rollouts.closed_loop import JUDGE_SEEDS, SEARCH_SEEDS, SELECTION_SEEDS
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from tests.calibration.choosing import test_trials
from tests.calibration.choosing.test_trials import PLANTED, REAL, stored_bias, tried_of, ways
from tests.calibration.test_calibrate import denoiser, write_bundle
from tests.free_bundle import free
from tests.graph.bake.run_baked import sampled

OPTIONS = replace(test_trials.OPTIONS, trajectories=32)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", denoiser())


def run(bundle: Path, **changes: object) -> Calibration:
    return calibrate(replace(OPTIONS, bundle=bundle, **changes))  # type: ignore[arg-type]


WAVE = np.float32(PLANTED) * np.sin(np.arange(64, dtype=np.float32)).reshape(8, 8)


def plant_image(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    """Every int8 body has one image in the error of all that it makes. `sizes` gets the rows of each call."""

    def opened(graph: Graph, target: Target) -> LoadedGraph:
        network = REAL(graph, target)
        return lambda feeds: (sizes.append(len(feeds["x"])), {"v": network(feeds)["v"] - WAVE})[1]

    monkeypatch.setattr(trials, "open_lowered", opened)


def test_an_image_is_found_on_more_seeds_and_taken_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plant_image(monkeypatch, sizes)
    made = run(bundle, target=("cpu-x86", "cpu-x86-7bit"))
    for name in ("int8-cpu-x86", "int8-cpu-x86-7bit"):
        off, on = tried_of(made, name)
        assert ways([off, on]) == [("channels", False), ("channels", True)] and on.is_chosen
        assert on.psnr > off.psnr + 3
        assert any("taken out at each position" in note for note in made.lowered[name].notes)
    stored = stored_bias(bundle)
    assert stored.shape == (3, 1, 8, 8)
    np.testing.assert_allclose(stored[:, 0], np.broadcast_to(WAVE, (3, 8, 8)), atol=0.3 * PLANTED)
    samples = 3 * trials.CHOOSING + trials.MEASURING  # run as it is and without the image, and measured
    known = 2 * trials.CHOOSING  # at the first step of three
    assert sum(sizes) == 2 * 2 * (3 * samples - known)  # targets, branches
    assert set(sizes) == {trials.CHOOSING}  # the two branches of half of those that choose


def test_an_image_stays_where_samples_are_surely_worse_without_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes where they do not tell, as its measurement does."""
    real = trials.mean_image
    plant_image(monkeypatch, [])
    for share, is_gone in ((-1.0, False), (0.0, True)):
        monkeypatch.setattr(trials, "mean_image", lambda *given, share=share: share * real(*given))
        off, on = tried_of(run(bundle))
        assert (off.is_chosen, on.is_chosen) == (not is_gone, is_gone) and on.seeds == off.seeds == trials.CHOOSING


def test_a_graph_has_one_shape_unless_sizes_are_free(tiny_bundle: Path) -> None:
    for folder, is_one in ((lambda: tiny_bundle, True), (lambda: free(tiny_bundle), False)):
        opened = open_bundle(folder())
        graph = io.load(opened.graph(opened.body("float32").graph), root=opened.path)
        assert trials._has_one_shape(graph) is is_one


def test_sizes_that_are_free_have_no_positions(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_image(monkeypatch, [])
    monkeypatch.setattr(trials, "_has_one_shape", lambda graph: False)
    run(bundle)
    with pytest.raises(KeyError):
        stored_bias(bundle)  # the mean of a channel wins nothing here


def test_a_body_that_leaves_the_numbers_on_a_seed_that_measures_keeps_its_image(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean error of such seeds is no number either, and would be added to all samples."""
    real = trials.mean_image
    plant_image(monkeypatch, [])
    monkeypatch.setattr(trials, "mean_image", lambda *given: np.nan * real(*given))
    (off,) = tried_of(run(bundle))
    assert off.is_chosen and not off.has_bias


def test_an_image_is_measured_on_all_seeds_or_on_none() -> None:
    assert [len(part) for part in measuring(64)] == [4] * 6 == [len(part) for part in measuring(32)]
    assert measuring(31) == () == measuring(8)
    own = {seed for part in measuring(1000) for seed in part}
    assert len(own) == trials.MEASURING and own < set(SELECTION_SEEDS)
    assert not own & {*SEARCH_SEEDS, *JUDGE_SEEDS, *trials.halves(64)[0], *trials.halves(64)[1]}
    page = Path(__file__).parents[3] / "docs/quantization.md"
    text = " ".join(page.read_text().split())
    assert f"{trials.MEASURING} more seeds measure it, {min(own)} to {max(own)}." in text
    assert f"with fewer than {trials.CHOOSING + trials.MEASURING} trajectories" in text


def test_few_trajectories_have_no_image(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_image(monkeypatch, [])
    run(bundle, trajectories=31)
    with pytest.raises(KeyError):
        stored_bias(bundle)  # the mean of a channel wins nothing here


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize(("groups", "batch"), [("step", None), ("pooled", 2)])
def test_a_baked_file_takes_it_out_with_the_same_bits(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, batch: int | None, unroll: bool
) -> None:
    plant_image(monkeypatch, [])
    assert tried_of(run(bundle, groups=groups))[-1].is_chosen
    plan, guidance, count = OPTIONS.plan, OPTIONS.guidance, batch or 3
    options = BakeOptions(bundle, plan, tmp_path / "s.onnx", "int8", guidance=guidance, batch=batch, unroll=unroll)
    bake(options)
    with load(bundle, "int8") as sampler:
        given = {each.name: np.zeros((count, *each.shape), each.dtype) for each in sampler.bundle.manifest.conditions}
        expected = sampler.sample(plan, range(count), given, guidance)
    np.testing.assert_array_equal(sampled(options.output, range(count), **given), expected)
