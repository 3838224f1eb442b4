"""The fix of errors about a missing int8 body: the command that makes it, unless that command was refused."""

from pathlib import Path

import msgspec
import pytest

from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.resolve_run import resolve_run
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.calibrate_command import calibrate_fix, store_refusal
from fewstep.runtime.bundle.platforms import target_of
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle, with_bodies

PREFERRED = OnnxRuntime().bodies["int8"][0]


@pytest.fixture
def plain(tiny_bundle: Path) -> Path:
    return with_bodies(tiny_bundle, "float32")


def test_a_refused_body_is_not_advised_again(plain: Path) -> None:
    bundle = open_bundle(plain)
    assert calibrate_fix(bundle, PREFERRED) == f"fewstep calibrate {plain} --target {target_of(PREFERRED)}"
    assert calibrate_fix(bundle) == f"fewstep calibrate {plain}"
    store_refusal(bundle, PREFERRED, UserError("it is only 3 dB from float32", "give --clip LIMIT"))
    said = f"the last calibration refused {PREFERRED}, because it is only 3 dB from float32; give --clip LIMIT"
    assert calibrate_fix(bundle, PREFERRED) == calibrate_fix(bundle) == said
    assert calibrate_fix(bundle, "int8-tensorrt") == f"fewstep calibrate {plain} --target tensorrt"
    options = BakeOptions(plain, parse_plan_text("ddim:2"), plain.parent / "b.onnx", "int8")
    for failing in (lambda: load(plain, "int8"), lambda: resolve_run(options)):
        with pytest.raises(UserError, match="the last calibration refused"):
            failing()


def test_without_float32_no_calibration_is_advised(tiny_bundle: Path) -> None:
    """As after `export --precision int4`, whose calibration is refused."""
    packed = open_bundle(with_bodies(tiny_bundle, "int8-cpu-x86"))
    said = "export it again with float32, from which other bodies are made"
    assert calibrate_fix(packed) == calibrate_fix(packed, "int8-tensorrt") == said


def test_the_refusal_of_another_schedule_is_not_given(plain: Path) -> None:
    bundle = open_bundle(plain)
    store_refusal(bundle, PREFERRED, UserError("it is only 3 dB from float32", "give --clip LIMIT"))
    schedule = msgspec.structs.replace(bundle.manifest.schedule, beta_end=0.03)
    again = open_bundle(change_bundle(plain, schedule=schedule))
    assert calibrate_fix(again, PREFERRED) == f"fewstep calibrate {plain} --target {target_of(PREFERRED)}"


def test_the_refusal_of_an_expert_is_that_of_its_bundle(plain: Path) -> None:
    """The expert predicts something else than the denoiser."""
    bundle = open_bundle(plain)
    expert = Bundle(plain, msgspec.structs.replace(bundle.manifest, prediction="epsilon"))
    store_refusal(expert, PREFERRED, UserError("it is only 3 dB from float32", "give --clip LIMIT"))
    assert calibrate_fix(bundle, PREFERRED).startswith(f"the last calibration refused {PREFERRED}, because")
