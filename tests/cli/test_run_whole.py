"""`fewstep run --whole-run`: files of `fewstep bake --unroll` in place of steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.cli.run.whole_runs import batches_of, whole_run_sizes
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.hold import HeldAs
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.sampling.whole_runs import WholeRun, WholeRuns
from tests.refusals import Words, refuses

PLAN = "dpmpp_2m:4"


def bake_file(bundle: Path, batch: int, plan: str = PLAN, hold: HeldAs = "none") -> str:
    file = bundle.with_name(f"run{batch}{hold * (hold != 'none')}.onnx")
    bake(BakeOptions(bundle, parse_plan_text(plan), file, guidance=2.0, batch=batch, unroll=True, hold=hold))
    return str(file)


def options(bundle: Path, *files: str, **changed: Any) -> RunOptions:
    given: dict[str, Any] = {"samples": 5, "condition": ("class=0", "class=2"), "guidance": 2.0, **changed}
    return RunOptions(bundle, parse_plan_text(PLAN), output=bundle.with_name("x.npy"), whole_run=files, **given)


def test_files_of_several_sizes_compute_all_that_they_can(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples equal those of the steps, from the same draws."""
    expected, called, inner = run(options(tiny_bundle)).x, list[str](), WholeRun.sample

    def sample(self: WholeRun, *arguments: Any) -> Any:
        called.append(self.name)
        return inner(self, *arguments)

    monkeypatch.setattr(WholeRun, "sample", sample)
    steps = list[tuple[str, int, int]]()
    asked = options(tiny_bundle, bake_file(tiny_bundle, 2), bake_file(tiny_bundle, 1))
    found = run(asked, lambda *each: steps.append(each)).x
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert called == ["run2.onnx", "run2.onnx", "run1.onnx"]
    assert steps == [("seeds 0 to 1", 4, 4), ("seeds 2 to 3", 4, 4), ("seed 4", 4, 4)]


def test_the_samples_that_are_left_run_step_by_step(tiny_bundle: Path) -> None:
    steps = list[tuple[str, int, int]]()
    run(options(tiny_bundle, bake_file(tiny_bundle, 4)), lambda *each: steps.append(each))
    assert steps == [("seeds 0 to 3", 4, 4), *(("seed 4", index, 4) for index in (1, 2, 3, 4))]


@pytest.mark.parametrize(
    ("changed", "names", "fix"),
    [
        ({"samples": 1, "condition": ("class=0",)}, ("run2.onnx", "samples 1, not 2"), "bake"),
        ({"guidance": 3.0}, ("run2.onnx", "guidance 3, not 2"), ()),
        ({"adapter": ("a.safetensors",)}, ("--whole-run", "--adapter"), "leave out"),
        ({"tiles": "4:2"}, ("--whole-run", "tiles"), "leave out"),
    ],
)
def test_a_file_that_would_compute_nothing_is_refused(
    tiny_bundle: Path, changed: dict[str, Any], names: Words, fix: Words
) -> None:
    with refuses(names, fix):
        run(options(tiny_bundle, bake_file(tiny_bundle, 2), **changed))


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Path]:
    """The options of a picture whose left half is kept."""
    picture, mask = (tmp_path / name for name in ("picture.png", "mask.png"))
    Image.fromarray(np.full((4, 4), 204, np.uint8)).save(picture)
    Image.fromarray(np.repeat(np.uint8([[0, 0, 255, 255]]), 4, axis=0)).save(mask)
    return {"image": picture, "known": mask}


@pytest.mark.parametrize("is_held", [False, True])
def test_files_of_several_holds_are_given_together(tiny_bundle: Path, known: dict[str, Path], is_held: bool) -> None:
    """The one with a hold computes the run with a known part, and the other one the run without."""
    files = bake_file(tiny_bundle, 2), bake_file(tiny_bundle, 2, hold="noised")
    steps, given = list[tuple[str, int, int]](), known if is_held else {}
    found = run(options(tiny_bundle, *files, samples=2, **given), lambda *each: steps.append(each)).x
    np.testing.assert_allclose(found, run(options(tiny_bundle, samples=2, **given)).x, rtol=0, atol=1e-5)
    assert steps == [("seeds 0 to 1", 4, 4)]


def test_a_file_without_a_hold_is_refused_for_a_known_part(tiny_bundle: Path, known: dict[str, Path]) -> None:
    with refuses(names=("run2.onnx", "hold noised, not none")):
        run(options(tiny_bundle, bake_file(tiny_bundle, 2), samples=2, **known))


def test_a_file_of_another_plan_is_refused(tiny_bundle: Path) -> None:
    with refuses(names=("run2.onnx", "dpmpp_2m:4, not ddim:4")):
        run(options(tiny_bundle, bake_file(tiny_bundle, 2, "ddim:4")))


@pytest.mark.parametrize(
    ("branches", "outputs", "names"),
    [
        ({"negative": {}}, [], ("--whole-run", "negative prompt")),
        ({}, ["depth", "mask"], ("--whole-run", "depth, mask")),
    ],
)
def test_what_a_file_does_not_compute_is_refused(
    tiny_bundle: Path, branches: dict[str, Any], outputs: list[str], names: Words
) -> None:
    manifest = SimpleNamespace(outputs=[SimpleNamespace(name=name) for name in outputs], x_shape=(4,))
    sampler: Any = SimpleNamespace(whole_runs=WholeRuns({}), bundle=SimpleNamespace(manifest=manifest))
    plan: Any = None
    with refuses(names, fix="out"):
        whole_run_sizes(sampler, plan, branches, options(tiny_bundle))


def test_batches_without_files_are_as_large_as_allowed() -> None:
    assert list(batches_of(5, 2, ())) == [range(0, 2), range(2, 4), range(4, 5)]
    assert list(batches_of(11, 64, (4, 2))) == [range(0, 4), range(4, 8), range(8, 10), range(10, 11)]
