"""Bundles with prompts in int8, from a prompt to the output."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.pipelines import __main__ as coverage
from benchmarks.pipelines.__main__ import EXPORTED, Outcome, summarize
from benchmarks.pipelines.whole_int8 import INT8, STORED, draw_conditions, list_precisions, run_whole_int8
from fewstep.runtime.bundle.manifest import Condition, ReplacedGraph
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.companions import DECODER, ENCODER, TEXT_ENCODER
from tests.bundles import change_bundle
from tests.calibration.latent_bundle import write_latent_bundle


def test_the_conditions_of_prompts_are_not_drawn(tmp_path: Path) -> None:
    bundle = write_latent_bundle(tmp_path / "bundle")
    manifest = open_bundle(bundle).manifest
    picture = Condition("picture", "picture", (3, 4, 4), "float32")
    change_bundle(bundle, conditions=(*manifest.conditions, picture))
    drawn = draw_conditions(open_bundle(bundle).manifest, 2)
    assert {name: value.shape for name, value in drawn.items()} == {"picture": (2, 3, 4, 4)}


def test_each_network_has_its_precision_or_the_reason_of_its_float32(tmp_path: Path) -> None:
    manifest = open_bundle(write_latent_bundle(tmp_path / "bundle")).manifest
    assert manifest.text is not None
    graph = manifest.text.graph
    body = manifest.bodies["float32"]
    stored = ReplacedGraph(graph.file, graph.inputs, graph.outputs)
    changed = type(body)(body.graphs, "int8", "cpu-x86", replaces={TEXT_ENCODER: stored}, reasons={DECODER: "lost"})
    whole = msgspec.structs.replace(manifest, bodies={"int8-cpu-x86": changed})
    assert dict(list_precisions(whole, "int8-cpu-x86")) == {
        "denoiser": INT8,
        TEXT_ENCODER: STORED,
        DECODER: "lost",
        ENCODER: "float32, without a reason",
    }


def test_the_sum_counts_networks_in_int8() -> None:
    outcomes = [
        Outcome("A", EXPORTED, int8={"denoiser": INT8, "text encoder": STORED}, int8_psnr=40.0),
        Outcome("B", EXPORTED, int8={"denoiser": INT8, "decoder": "8 dB lost"}, int8_psnr=40.0),
        Outcome("C", EXPORTED, int8={"denoiser": "each is slower"}),
        Outcome("D", EXPORTED, reason="int8: crash"),
        Outcome("E", EXPORTED),
    ]
    assert summarize(outcomes, 5).endswith(
        "; of 4 with prompts, 1 run with all networks in int8, 1 with some in float32, 1 have no int8 denoiser, 1 fail"
    )


@pytest.mark.slow
def test_a_bundle_runs_from_a_prompt_to_its_picture(tmp_path: Path) -> None:
    whole = run_whole_int8(write_latent_bundle(tmp_path / "bundle"))
    assert whole.networks["denoiser"] == INT8 and whole.networks.keys() >= {TEXT_ENCODER, DECODER, ENCODER}
    assert (whole.psnr or 0.0) > 25.0


def test_a_run_that_fails_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_latent_bundle(tmp_path / "bundle")

    def fail(_: Path) -> None:
        raise ValueError("no row")

    monkeypatch.setattr(coverage, "run_whole_int8", fail)
    assert coverage._run_int8(bundle)[1] == ["int8: ValueError: no row"]
