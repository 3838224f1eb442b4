"""TensorRT-RTX builds the graph of a step ahead of time, on a machine without a GPU."""

import json
from pathlib import Path
from typing import NoReturn

import pytest

from fewstep.graph.bake.cut import Steps
from fewstep.graph.engines.build_engine import request, run_worker
from fewstep.graph.engines.builders import STRICT, TENSORRT_RTX
from fewstep.graph.engines.kernels import kernels_of
from fewstep.graph.engines.resident.run import resident
from fewstep.graph.graph import Graph
from fewstep.graph.io import save
from fewstep.runtime.backends.tensorrt import TensorRt

pytest.importorskip(str(TENSORRT_RTX.module), reason="tensorrt-rtx, which builds without a GPU, is not installed")


def engine_of_a_step(bundle: Path, plan: str, folder: Path) -> bytes:
    def built(_: Steps, graph: Graph) -> NoReturn:
        """An engine is built of the step, and cannot run here."""
        save(graph, folder / "step.onnx")
        shapes = {value.name: [[*map(int, value.shape)]] * 3 for value in graph.inputs}
        files = [folder / f"step.{suffix}" for suffix in ("onnx", "engine", "json")]
        files[2].write_text(json.dumps(request(TENSORRT_RTX, "sm89", shapes, STRICT)))
        run_worker([*map(str, files)], "the step", 600.0, "tensorrt-rtx")
        raise StopIteration

    run = resident(bundle, plan, TensorRt("tensorrt-rtx"), guidance=2.0)
    run.open = built
    with pytest.raises(StopIteration):
        run([0], {"class": [1]})
    return (folder / "step.engine").read_bytes()


@pytest.mark.parametrize("plan", ["dpmpp_2m:4", "ddim(eta=1):3"])
def test_it_is_built(tiny_bundle: Path, tmp_path: Path, plan: str) -> None:
    assert engine_of_a_step(tiny_bundle, plan, tmp_path)


@pytest.mark.slow
def test_that_of_the_shipped_model_has_its_convolutions_once(exported_fashion_mnist: Path, tmp_path: Path) -> None:
    assert len(kernels_of(engine_of_a_step(exported_fashion_mnist, "dpmpp_2m:8", tmp_path)).convolutions) == 33
