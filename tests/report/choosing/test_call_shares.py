"""The shares of a whole call that are int8: of all graphs, each as often as it runs."""

from pathlib import Path

import msgspec
import pytest

from fewstep.report.choosing.call_shares import _graphs_that_run_once, share_of_bytes, share_of_macs
from fewstep.runtime.bundle.manifest import AutoencoderEntry, ReplacedGraph
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle, content_of, entry, node, small, value
from tests.report.judged_bundle import COVERAGE, SHAPE, add_earlier, make_bundle
from tests.runtime.test_networks import with_expert

BODY = "int8-cpu-x86"
ROWS, MACS = 8, COVERAGE.total_macs  # of four guided steps, and of one row of the body, of which half is int8


def add_decoder(bundle: Path) -> int:
    """Add a decoder of one convolution. Return its multiply-accumulates."""
    latent, image = value("latent", "batch", *SHAPE), value("image", "batch", 3, 8, 8)
    graph = small([latent], [image], [node("Conv", "latent w", "image")], w=[[[[1.0]]]] * 3)
    decoder = entry("graphs/decoder.onnx", graph)
    change_bundle(bundle, {decoder.file: content_of(graph)}, autoencoder=AutoencoderEntry(decoder))
    return 3 * 8 * 8


def shares(path: Path) -> tuple[float | None, float]:
    bundle, plan = open_bundle(path), load(path).compile("dpmpp_2m:4")
    return share_of_macs(bundle, BODY, plan), share_of_bytes(bundle, BODY, plan)


def size(bundle: Path, *files: str) -> int:
    return sum((bundle / file).stat().st_size for file in files)


def test_a_decoder_belongs_to_the_call(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    own, rest = size(bundle, "graphs/int8.onnx"), size(bundle, "graphs/prologue.onnx")
    assert shares(bundle) == (pytest.approx(0.5), pytest.approx(own / (own + rest)))
    macs = add_decoder(bundle)
    rest += size(bundle, "graphs/decoder.onnx")
    assert shares(bundle) == (
        pytest.approx(0.5 * ROWS * MACS / (ROWS * MACS + macs)),
        pytest.approx(own / (own + rest)),
    )


def test_steps_that_run_in_float_are_not_int8(tmp_path: Path) -> None:
    """The graph of the last two of four steps is half in int8."""
    bundle = make_bundle(tmp_path / "tiny")
    add_earlier(bundle)
    body = open_bundle(bundle).manifest.bodies[BODY]
    own, rest = size(bundle, body.graph.file), size(bundle, body.graphs[0].file, "graphs/prologue.onnx")
    assert shares(bundle) == (pytest.approx(0.25), pytest.approx(own / (own + rest)))


def test_operations_of_a_large_float_graph_are_not_counted(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    prologue = open_bundle(bundle).manifest.prologue
    assert prologue is not None
    change_bundle(bundle, prologue=msgspec.structs.replace(prologue, data=(prologue.file,)))
    macs, others = shares(bundle)
    assert macs is None and 0 < others < 1


def test_weights_of_8_bits_are_not_int8_multiplications(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    macs, _ = shares(bundle)
    manifest = open_bundle(bundle).manifest
    assert manifest.prologue is not None
    stored = ReplacedGraph(**msgspec.structs.asdict(manifest.prologue) | {"file": "graphs/stored.onnx"})
    body = msgspec.structs.replace(manifest.bodies[BODY], replaces={"prologue": stored})
    content = (bundle / manifest.prologue.file).read_bytes()
    change_bundle(bundle, {stored.file: content}, bodies={**manifest.bodies, BODY: body})
    assert macs is not None and shares(bundle) == (pytest.approx(macs), 1.0)


def test_the_conditioner_of_a_network_that_runs_no_step_is_not_counted(tmp_path: Path) -> None:
    """Nor in a plan of one branch."""
    bundle = make_bundle(tmp_path / "tiny")
    plan = load(bundle).compile("ddim:2", guidance=1.0)
    prologue = open_bundle(bundle).manifest.prologue
    assert prologue is not None
    unused = msgspec.structs.replace(prologue, file="graphs/unused.onnx")
    manifest = open_bundle(with_expert(bundle, until=-30.0, inputs={"class": "class"})).manifest
    noisy = msgspec.structs.replace(manifest.networks["noisy"], conditioner=unused)
    changed = msgspec.structs.replace(manifest, networks={"noisy": noisy})
    counted = [(graph.file, times) for graph, _, times in _graphs_that_run_once(changed, BODY, plan)]
    assert counted == [("graphs/prologue.onnx", 2)]
