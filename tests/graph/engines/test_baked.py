"""TensorRT-RTX builds baked files without a GPU: as a Loop, and unrolled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.engines.build_engine import WORKER, request
from fewstep.graph.engines.builders import STRICT, TENSORRT_RTX
from fewstep.graph.engines.kernels import kernels_of

pytest.importorskip(str(TENSORRT_RTX.module), reason="tensorrt-rtx, which builds without a GPU, is not installed")


def built(options: BakeOptions) -> bytes:
    """Build the engine of a baked file for one device, for batches from 1 to 4 or the fixed one."""
    baked, (file, *_) = bake(options)
    batches = (1, 2, 4) if options.batch is None else (options.batch,) * 3
    shapes = {
        port.name: [[batch if size == "batch" else size for size in port.shape] for batch in batches]
        for port in baked.inputs
    }
    asked, engine = file.with_suffix(".json"), file.with_suffix(".engine")
    asked.write_text(json.dumps(request(TENSORRT_RTX, "sm89", shapes, STRICT)))
    command = [sys.executable, str(WORKER), str(file), str(engine), str(asked)]
    subprocess.run(command, check=True, capture_output=True)
    return engine.read_bytes()


def test_a_loop_is_built(tiny_bundle: Path, tmp_path: Path) -> None:
    assert built(BakeOptions(tiny_bundle, "dpmpp_2m:4", tmp_path / "s.onnx", "int8", guidance=2.0))


@pytest.mark.slow
@pytest.mark.parametrize(("unroll", "evaluations"), [(False, 1), (True, 2)])
def test_the_shipped_model_is_built(
    exported_fashion_mnist: Path, tmp_path: Path, unroll: bool, evaluations: int
) -> None:
    """A Loop has the network's 33 convolutions once. Unrolled, they occur in every step."""
    options = BakeOptions(exported_fashion_mnist, "ddim:2", tmp_path / "s.onnx", guidance=2.0, batch=1, unroll=unroll)
    assert len(kernels_of(built(options)).convolutions) == 33 * evaluations
