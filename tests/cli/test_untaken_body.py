"""The int8 body that a command without --precision does not run."""

from pathlib import Path

import pytest

from fewstep.cli.describe.untaken_body import describe_untaken, describe_ways_to_run
from fewstep.cli.run.options import RunOptions
from fewstep.cli.verbs.run import verb
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.manifest import NetworkEntry
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import SILENT
from tests.bundles import change_bundle
from tests.report.judged_bundle import make_bundle

BODY = "int8-cpu-x86"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "tiny")


def test_a_run_without_a_precision_names_the_body_that_was_judged(bundle: Path, tmp_path: Path) -> None:
    options = RunOptions(bundle, output=tmp_path / "x.npy", plan="ddim:2", samples=1, condition=("class=1",))
    shown = [str(line) for line in verb(options, SILENT).shown]
    assert len(shown) == 2 and "in float32" in shown[0]
    assert shown[1].startswith(f"float32 runs, since no --precision was given: --precision int8 runs {BODY}")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_precision_that_was_given_is_not_questioned(bundle: Path, precision: str) -> None:
    assert not [*describe_untaken(open_bundle(bundle), precision, create_backend("onnxruntime"))]


def test_an_engine_without_the_body_names_none(bundle: Path) -> None:
    assert not [*describe_untaken(open_bundle(bundle), None, create_backend("openvino"))]


def test_a_body_that_another_network_lacks_is_not_named(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    bodies = {"float32": manifest.bodies["float32"]}
    noisy = NetworkEntry(0.0, manifest.prediction, {"class": "class"}, bodies, "", "0" * 64, prologue=manifest.prologue)
    change_bundle(bundle, networks={"noisy": noisy})
    assert not [*describe_untaken(open_bundle(bundle), None, create_backend("onnxruntime"))]


def test_a_calibration_says_how_its_bodies_run(bundle: Path) -> None:
    (line,) = describe_ways_to_run(open_bundle(bundle).manifest, [BODY])
    assert line == "fewstep run takes float32, unless you give --precision int8"
    assert not [*describe_ways_to_run(open_bundle(bundle).manifest, [])]
    only = {BODY: open_bundle(bundle).manifest.bodies[BODY]}
    change_bundle(bundle, bodies=only)
    assert not [*describe_ways_to_run(open_bundle(bundle).manifest, [BODY])]
