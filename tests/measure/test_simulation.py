"""A body of another engine, whose rounding onnxruntime simulates."""

from pathlib import Path

import msgspec
import numpy as np

from fewstep.graph.files import io
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.half_types import BFLOAT16
from fewstep.graph.passes.half import to_half
from fewstep.graph.passes.rounding import round_to
from fewstep.graph.session import run
from fewstep.measure.body_backends import is_run_by_onnxruntime
from fewstep.measure.open_body import open_body
from fewstep.measure.simulation import Simulation
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from tests.calibration.test_calibrate import SHAPE, denoiser, write_bundle


def with_bfloat16(path: Path) -> Bundle:
    """A bundle of the denoiser, with its body in bfloat16."""
    bundle = open_bundle(write_bundle(path, denoiser()))
    with open_for_update(path, must_exist=True) as writer:
        file, data = io.store(writer, to_half(denoiser(), BFLOAT16), "bfloat16")
        entry = msgspec.structs.replace(bundle.body("float32").graph, file=file, data=data)
        bodies = {**bundle.manifest.bodies, "bfloat16": Body.from_graph(entry, "bfloat16", "portable")}
        writer.commit(msgspec.structs.replace(bundle.manifest, bodies=bodies))
    return open_bundle(path)


def test_a_body_in_bfloat16_is_rounded_in_float32(tmp_path: Path) -> None:
    bundle, name = with_bfloat16(tmp_path / "tiny"), "bfloat16"
    assert not is_run_by_onnxruntime(bundle.body(name))
    x = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    feeds = {"x": x, "row": np.ones((2, 1, 1, 1), np.float32)}
    expected = run(round_to(denoiser(), BFLOAT16), feeds)["v"]
    np.testing.assert_array_equal(Simulation().load(bundle, name)(feeds)["v"], expected)
    samples = [open_body(bundle, each, 1).sample("ddim:3", [0], {"class": [1]}) for each in ("float32", name)]
    assert 0 < abs(samples[1] - samples[0]).max() < 0.05
