"""`calibrate --keep-float`: the operations that a pattern names stay in float, whatever calibration chooses."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.calibration.precision.kept_operations import check_patterns, match_operations
from fewstep.calibration.recorded_options import find_recorded_options
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from tests.calibration.precision.deep_body import deep, run
from tests.calibration.test_calibrate import write_bundle
from tests.exact_int8 import EXACT_BODY, EXACT_TARGET
from tests.refusals import refuses

NAMES = {"h1": "down.conv/Conv", "h2": "middle.first/Conv", "h3": "middle.second/Conv"}


def body_with_names() -> Graph:
    """The body with module names for its inner convolutions."""
    graph = deep()
    nodes = tuple(replace(node, name=NAMES.get(node.output, node.name)) for node in graph.nodes)
    return replace(graph, nodes=nodes)


@pytest.mark.parametrize(
    ("patterns", "operations"),
    [
        (("middle.first/Conv",), ("h2",)),
        (("middle.*",), ("h2", "h3")),
        (("down.conv",), ("h1",)),
        (("h4",), ("h4",)),
        (("*/Conv", "h4"), ("h1", "h2", "h3", "h4")),
        (("middle",), ()),
        ((), ()),
    ],
)
def test_a_pattern_matches_a_name_or_its_module(patterns: tuple[str, ...], operations: tuple[str, ...]) -> None:
    assert match_operations(body_with_names(), patterns) == operations


def test_a_pattern_that_matches_nothing_is_refused_with_names() -> None:
    with refuses(("--keep-float", "'middle.frist/Conv'"), "middle.first/Conv"):
        check_patterns([body_with_names()], ("middle.*", "middle.frist/Conv"))


def test_a_pattern_may_match_in_one_of_several_networks() -> None:
    check_patterns([deep(), body_with_names()], ("middle.*",))


def test_kept_operations_are_float_in_the_body(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", body_with_names())
    free = run(bundle).bodies[EXACT_BODY]
    limited = run(bundle, keep_float=("middle.*",)).bodies[EXACT_BODY]
    assert {"h2", "h3"} <= set(free.graph.coverage.int8_ops)
    assert set(limited.graph.coverage.int8_ops) == set(free.graph.coverage.int8_ops) - {"h2", "h3"}
    assert set(limited.trials[0].in_float) >= {"h2", "h3"}
    assert limited.trials[0].psnr > free.trials[0].psnr


def test_the_command_repeats_the_patterns(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", body_with_names())
    (*_, command) = run(bundle, keep_float=("middle.*", "h4")).manifest.provenance.commands
    assert "--keep-float 'middle.*,h4'" in command


def test_the_advice_repeats_the_patterns(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", body_with_names())
    manifest = run(bundle, keep_float=("middle.*", "h4"), half="bfloat16").manifest
    options = find_recorded_options(manifest, manifest.bodies[EXACT_BODY])
    assert options["keep_float"] == ("middle.*", "h4") and options["half"] == "bfloat16"
    assert options["target"] == (EXACT_TARGET,)
    assert "--keep-float 'middle.*,h4'" in CalibrateOptions(bundle, **options).command_line("calibrate")
    assert find_recorded_options(manifest, manifest.bodies["float32"]) == {}


def test_a_bound_keeps_them_too(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", body_with_names())
    body = run(bundle, keep_float=("down.conv",), quality="1dB").bodies[EXACT_BODY]
    assert "h1" in body.trials[0].in_float


def test_a_body_without_int8_says_that_the_option_may_be_the_cause(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", body_with_names())
    with pytest.raises(UserError, match="kept in float by --keep-float"):
        run(bundle, keep_float=("*",))


def test_a_target_without_floats_refuses_it(tmp_path: Path) -> None:
    with refuses(("--keep-float", "qnn runs every operation in integers")):
        check_options(CalibrateOptions(tmp_path, target=("qnn",), keep_float=("*",)))


def test_every_decision_is_logged_with_its_error_and_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = write_bundle(tmp_path / "bundle", body_with_names())
    with caplog.at_level(logging.INFO, "fewstep"):
        run(bundle, keep_float=("down.conv",))
    lines = [line for line in caplog.messages if line.startswith(f"{EXACT_TARGET}, ")]
    assert len(lines) == 4
    assert lines[0].startswith(f"{EXACT_TARGET}, down.conv/Conv: float (") and "kept by --keep-float" in lines[0]
    assert any(
        line.startswith(f"{EXACT_TARGET}, middle.first/Conv: int8 (") and "% of the error of int8" in line
        for line in lines
    )
