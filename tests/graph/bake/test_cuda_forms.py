"""Runs in the form for ONNX Runtime's CUDA provider."""

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fewstep.graph.bake.bake import assemble_run, bake
from fewstep.graph.bake.network_form import BodyForm, body_form, lossy_form
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.cuda.contrib_norm_definition import expand_contrib_norms
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.files import io
from fewstep.graph.session import run
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.backends.onnxruntime_cuda_form import has_contrib_norms
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import write_graphs
from tests.cuda_forms import ATTENTION, NORM
from tests.graph.small_graphs import assert_close
from tests.onnx_text import graph_of_text

PLAN = parse_plan_text("ddim:3")


@pytest.fixture
def attention(tmp_path: Path) -> Path:
    body = graph_of_text(ATTENTION, third=np.float32(0.3))
    return write_graphs(tmp_path / "attention", {"body": body}, {"float32": {}})


@pytest.fixture
def norm(tmp_path: Path) -> Path:
    constants = {"mix": np.eye(4, dtype=np.float32)[:, :, None, None], "groups": np.int64([0, 2, 18])}
    graph = graph_of_text(NORM, **constants, ones=[1.0, 2.0], zeros=[0.0, 0.5], whole=np.int64([0, 4, 3, 3]))
    return write_graphs(tmp_path / "norm", {"body": graph}, {"float32": {}})


def options(bundle: Path, body: str) -> BakeOptions:
    return BakeOptions(bundle, PLAN, bundle.with_name(f"{body}.onnx"), body=body, batch=2, unroll=True)


@pytest.mark.parametrize(
    ("named", "form"),
    [
        (BodyForm("float32"), ""),
        (BodyForm("float32", "float32-cuda"), ""),
        (BodyForm("float16", "float16-cuda"), ""),
        (BodyForm("float32", "float16-cuda"), "float16"),
        (BodyForm("float32", "int8-weights"), "int8-weights"),
    ],
)
def test_the_form_of_the_same_precision_computes_the_values_of_the_body(named: BodyForm, form: str) -> None:
    assert lossy_form(named) == form


def test_a_form_with_attention_has_its_samples_and_a_test_vector(attention: Path) -> None:
    noise, samples = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32), []
    for body in ("float32", "float32-cuda"):
        baked, (file, *_) = bake(options(attention, body))
        assert baked.sample is not None and baked.precision == "float32"
        samples += onnxruntime.InferenceSession(str(file)).run(None, {"noise": noise})
        assert io.load(file).ops().count("MultiHeadAttention") == (3 if body.endswith("cuda") else 0)
        assert not has_contrib_norms(file)
    np.testing.assert_allclose(*samples, rtol=0, atol=1e-5)


def test_a_form_with_norms_has_no_test_vector(norm: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The CPU has no such kernel. Its numbers are those of the definition."""
    with caplog.at_level(logging.WARNING, "fewstep"):
        baked, (file, *_) = bake(options(norm, "float32-cuda"))
    assert baked.sample is None and "the file has no test vector: " in caplog.messages[0]
    assert has_contrib_norms(file)
    graphs = [assemble_run(options(norm, body))[0].graph for body in ("float32", "float32-cuda")]
    given = {"noise": np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32)}
    expected, found = (run(expand_contrib_norms(graph), given) for graph in graphs)
    assert_close(expected, found, 1e-5)


def test_float16_is_the_bundles_body_or_made_from_float32(attention: Path) -> None:
    name = "float16-cuda"
    assert body_form(open_bundle(attention).manifest, name) == BodyForm("float32", name)
    made = [assemble_run(options(attention, name))]
    build(BuildOptions(attention, "onnxruntime-cuda", precision="float16"))
    assert body_form(open_bundle(attention).manifest, name) == BodyForm("float16", name)
    made.append(assemble_run(options(attention, name)))
    assert [baked.precision for _, baked in made] == ["float16"] * 2
    assert made[0][0].graph.ops() == made[1][0].graph.ops()
    assert made[0][0].graph.ops().count("MultiHeadAttention") == 3
