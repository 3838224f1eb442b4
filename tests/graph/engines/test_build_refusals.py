"""Refusals of `fewstep build`, and builders that fail: one line each, and the bundle loses nothing."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.engines.builders import TENSORRT_RTX
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.graph.engines.test_build import content
from tests.refusals import refuses


@pytest.mark.parametrize(
    "script, message",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"died \(SIGKILL\) while building 'prologue'"),
        ("import time; time.sleep(60)", "took more than 0.5 s to build 'prologue' for sm89"),
        ("import sys; print('[W] odd\\n[E] no kernel for op\\nmore', file=sys.stderr); sys.exit(1)", "no kernel for"),
        (
            "import sys; sys.exit('[TRT] [E] a norm: setComputePrecision\\n[TRT] [E] no tactic\\n[TRT] [E] Internal')",
            "cannot build 'prologue' for sm89: no tactic",
        ),
        (
            "import sys; sys.exit('[TRT] [E] Internal\\n[E] Conv: has no kernel_shape')",
            "cannot build 'prologue' for sm89: Conv: has no kernel_shape",
        ),
        (
            "import sys; sys.exit('[TRT] [E] Error Code 9: Could not infer output types for operation: 3: dequantize')",
            "operation: 3: dequantize; try --float32-scales",
        ),
        ("import sys; sys.exit('ValueError: bad')", "cannot build 'prologue' for sm89: ValueError: bad"),
        ("import sys; sys.exit(3)", "it gave no reason"),
        (
            "import sys; open(sys.argv[2], 'w').write('"
            'tensor={ dims={ 1 } name="x" type=float }\\n corrltn={ name="c" output={"y" } input={"x" "w" } }\')',
            "computes convolution 'c' in float32",
        ),
    ],
    ids=["killed", "hangs", "refuses", "ignores", "parses", "scales", "raises", "silent", "float32"],
)
def test_a_builder_that_fails_costs_one_line_and_nothing_of_the_bundle(
    bundle: Path, worker: Path, script: str, message: str
) -> None:
    worker.write_text(script)
    before = content(bundle)
    with pytest.raises(UserError, match=message):
        build(BuildOptions(bundle, device=("sm89",), timeout=30.0 if "sleep" not in script else 0.5))
    assert content(bundle) == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"device": ("sm90",)}, f"unknown device 'sm90'; choose from {', '.join(TENSORRT_RTX.devices)}"),
        ({"backend": "tensorflow"}, "unknown backend 'tensorflow'"),
        ({"min_batch": "0"}, "batches 0, 4, 16 are not"),
        ({"opt_batch": "32"}, "batches 1, 32, 16 are not"),
        ({"workspace": 0}, "--workspace is 0; give at least 1"),
        ({"version_compatible": True}, "tensorrt-rtx has no --version-compatible"),
        ({"dla": 0, "precision": "float16"}, "tensorrt-rtx has no --dla"),
        (
            {"dla": 0, "backend": "tensorrt"},
            "a DLA does not support quantized .* int8 graphs; build --precision float16",
        ),
        ({"float32_scales": True, "precision": "float16"}, "float16 has no scales; build --precision int8"),
        ({"float32_scales": True, "script": Path("s.sh")}, "the bundle's graphs unchanged; omit --script"),
        (
            {"backend": "tensorrt", "device": ("sm89",)},
            "tensorrt builds only for this machine's GPU, sm87, not for sm89",
        ),
    ],
)
@pytest.mark.usefixtures("worker", "jetson")
def test_impossible_choices_are_refused(bundle: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(replace(BuildOptions(bundle), **change))  # type: ignore[arg-type]


def test_a_bundle_that_was_not_calibrated_is_refused(bundle: Path, worker: Path) -> None:
    change_bundle(bundle, bodies={"float32": open_bundle(bundle).manifest.bodies["float32"]})
    with refuses(("'int8-tensorrt'", "to build"), "fewstep calibrate"):
        build(BuildOptions(bundle))


@pytest.mark.parametrize(
    "backend, message",
    [
        ("tensorrt-rtx", r"tensorrt_rtx cannot be imported .*; pip install 'fewstep\[tensorrt-rtx\]'"),
        ("tensorrt", r"tensorrt cannot be imported .*; on a Jetson: apt install"),
    ],
)
def test_a_missing_builder_is_named_with_its_command(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, backend: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, backend.replace("-", "_"), None)
    with pytest.raises(UserError, match=message):
        build(BuildOptions(bundle, backend=backend))


def test_a_builder_that_is_too_old_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch, jetson: None) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.5.2.2"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with refuses(("tensorrt 8.5.2.2 is too old", "10.3")):
        build(BuildOptions(bundle, backend="tensorrt"))
