"""The recorded calibration that makes a lost file again, and the options of recorded commands."""

from pathlib import Path

import msgspec
import pytest

from fewstep.calibration.recorded_options import find_recorded_options
from fewstep.runtime.backends import PROLOGUE
from fewstep.runtime.bundle.manifest import Manifest, ReplacedGraph
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.bundle.remake_commands import read_command_options, recalibrate_command
from tests.runtime.bundle.test_remake_commands import with_commands

BODY = "int8-cpu-x86"
FIRST = "fewstep calibrate BUNDLE --plan ddim:4 --target cpu-x86 --guidance 2"
TENSORRT = "fewstep calibrate BUNDLE --plan ddim:4 --target tensorrt"
OTHER = "fewstep calibrate BUNDLE --plan heun:2 --target cpu-x86,tensorrt"


def record_calibrations(bundle: Path, *commands: str) -> Manifest:
    """The manifest of a bundle whose int8 body was calibrated along ddim:4, and which has a plan of heun:2, too."""
    manifest = with_commands(bundle, *commands)
    body = msgspec.structs.replace(manifest.bodies[BODY], plan="ddim:4", ranges="ranges/own")
    plans = {"ddim:4": "plans/a.json", "heun:2": "plans/b.json"}
    return msgspec.structs.replace(manifest, plans=plans, bodies={**manifest.bodies, BODY: body})


@pytest.mark.parametrize(
    ("file", "command"),
    [("graph", FIRST), ("ranges/own", FIRST), ("plans/a.json", FIRST), ("plans/b.json", OTHER), ("unknown", TENSORRT)],
)
def test_it_is_the_last_one_for_the_plan_and_the_target_of_the_file(tiny_bundle: Path, file: str, command: str) -> None:
    manifest = record_calibrations(tiny_bundle, OTHER, FIRST, TENSORRT)
    lost = manifest.bodies[BODY].graph.file if file == "graph" else file
    assert recalibrate_command(manifest, Path("my tex"), lost) == command.replace("BUNDLE", "'my tex'")


def test_it_makes_a_graph_that_the_body_runs_instead_of_a_shared_one(tiny_bundle: Path) -> None:
    manifest = record_calibrations(tiny_bundle, FIRST, TENSORRT)
    own = {PROLOGUE: ReplacedGraph("graphs/own.onnx", (), (), ("graphs/own.bin",))}
    body = msgspec.structs.replace(manifest.bodies[BODY], replaces=own)
    manifest = msgspec.structs.replace(manifest, bodies={**manifest.bodies, BODY: body})
    commands = {recalibrate_command(manifest, Path("tex"), f"graphs/own.{suffix}") for suffix in ("onnx", "bin")}
    assert commands == {FIRST.replace("BUNDLE", "tex")}


def test_without_one_for_its_plan_it_is_the_last_recorded_one(tiny_bundle: Path) -> None:
    manifest = record_calibrations(tiny_bundle, TENSORRT, OTHER, "fewstep fit BUNDLE")
    assert recalibrate_command(manifest, Path("tex"), "ranges/own") == OTHER.replace("BUNDLE", "tex")
    assert recalibrate_command(record_calibrations(tiny_bundle), Path("tex"), "ranges/own") == "fewstep calibrate tex"


def test_options_are_read_as_a_shell_reads_them() -> None:
    assert read_command_options("fewstep calibrate BUNDLE --plan 'ddim(eta=1):4' --keep-float a") == {
        "plan": "ddim(eta=1):4",
        "keep_float": "a",
    }


def test_a_flag_has_no_value_and_those_of_a_repeated_option_are_joined() -> None:
    command = "fewstep calibrate BUNDLE --no-floats --keep-float a --keep-float 'b c' --threads 2"
    assert read_command_options(command) == {"no_floats": "", "keep_float": "a,b c", "threads": "2"}


def test_a_damaged_command_has_no_options(tiny_bundle: Path) -> None:
    """A quotation mark has no partner."""
    manifest = with_commands(tiny_bundle, "fewstep calibrate BUNDLE --target cpu-x86 --groups 'pooled")
    assert read_command_options(manifest.provenance.commands[0]) == {}
    assert find_recorded_options(manifest, open_bundle(tiny_bundle).manifest.bodies[BODY]) == {}
