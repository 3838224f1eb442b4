"""A baked run of a body that runs its own prologue and decoder."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.graph import Graph
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.bundle.manifest import ReplacedGraph
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.companions import DECODER
from fewstep.runtime.sampling.loading import load
from tests.bundles import content_of, entry, with_body, write
from tests.conftest import LABEL_SHIFT, prologue
from tests.graph.bake.run_baked import run_file
from tests.runtime.text_bundle import LENGTH, SCALE, decoder_graph, with_companions

BODY = "int8-cpu-x86"
IDS = {"ids": np.zeros((1, LENGTH), np.int64), "mask": np.zeros((1, LENGTH), np.int64)}  # which no graph uses
SHIFT = 0.5  # of the own prologue's rows


def add_own_graphs(bundle: Path) -> None:
    """Give the int8 body a prologue with other rows, and a decoder of twice the contrast."""
    own = {
        "prologue": replace(prologue(), constants={**prologue().constants, "table": LABEL_SHIFT + np.float32(SHIFT)}),
        DECODER: replace(decoder_graph(), constants={**decoder_graph().constants, "scale": np.float32(SCALE / 2)}),
    }

    def entry_of(name: str, graph: Graph) -> ReplacedGraph:
        return ReplacedGraph(**msgspec.structs.asdict(entry(f"graphs/own-{name[:7]}.onnx", graph)))

    files = {f"graphs/own-{name[:7]}.onnx": content_of(graph) for name, graph in own.items()}
    write(bundle, open_bundle(bundle).manifest, files)
    with_body(bundle, BODY, replaces={name: entry_of(name, graph) for name, graph in own.items()})


@pytest.mark.parametrize("unroll", [False, True])
def test_a_baked_run_has_the_graphs_of_its_body(tiny_bundle: Path, tmp_path: Path, unroll: bool) -> None:
    with_companions(tiny_bundle)
    add_own_graphs(tiny_bundle)
    pictures = {}
    for body in ("float32", BODY):
        file = tmp_path / f"{body}.onnx"
        bake(BakeOptions(tiny_bundle, plan="ddim:2", output=file, body=body, unroll=unroll))
        with load(tiny_bundle, body=body) as sampler:
            x = sampler.sample("ddim:2", [3], {"class": [1], "text": np.zeros((1, LENGTH, 2), np.float32)})
            expected = load_autoencoder(sampler.bundle, 1).decode(x)
        assert expected[0, 0, ::2, ::2] == pytest.approx(x[0, 0] / (SCALE if body == "float32" else SCALE / 2))
        pictures[body] = run_file(file, [3], **{"class": [1], "text": np.zeros((1, LENGTH, 2)), **IDS})
        np.testing.assert_allclose(pictures[body], expected, atol=1e-5)
    assert np.abs(pictures[BODY] - pictures["float32"]).max() > SHIFT / 10
