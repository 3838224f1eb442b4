"""Export with a light network: it reads features of the full one, shares its weights, and runs the light steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.cli.main import main
from fewstep.cli.next_command import calibrate_next
from fewstep.export import light_network
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.cuts.feature_cuts import Cut, SplitBody, split_body
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.plan import Carry
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.consistency import manifest_problems
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundle_with_light_network import SKIPPING, export_light
from tests.refusals import refuses

CONDITION = {"class": [0, 1]}


def test_both_networks_read_one_file_of_weights(exported_light: Path) -> None:
    manifest = open_bundle(exported_light).manifest
    full, light = manifest.bodies["float32"].graph, manifest.networks["light"].bodies["float32"].graph
    assert full.data == light.data and len(full.data) == 1
    assert sum((exported_light / each.file).stat().st_size for each in (full, light)) < 2**16
    assert manifest.networks["light"].prologue == manifest.prologue is not None


def test_the_light_network_takes_the_features_that_the_full_one_returns(exported_light: Path) -> None:
    manifest = open_bundle(exported_light).manifest
    full, light = manifest.bodies["float32"].graph, manifest.networks["light"].bodies["float32"].graph
    assert [(port.name, port.shape) for port in full.outputs][1:] == [("next_features", ("batch", 24, 8, 8))]
    assert ("carried_features", ("batch", 24, 8, 8)) in [(port.name, port.shape) for port in light.inputs]
    assert manifest.features is not None and (manifest.features.cut, manifest.features.is_read) == ("depth1", False)


def test_the_share_of_the_work_is_that_of_its_multiply_adds(exported_light: Path) -> None:
    features = open_bundle(exported_light).manifest.features
    first, near, joined, last = (9 * 64 * given * made for given, made in ((1, 24), (24, 24), (24, 24), (24, 1)))
    down, deep, up = 9 * 16 * 24 * 32, 9 * 16 * 32 * 32, 9 * 64 * 32 * 24
    light = first + near + last  # the convolution that reads both sides is a sum of two, and one of them is deep
    assert features is not None and features.share == round(light / (light + joined + down + deep + up), 4)


def test_a_plan_without_light_steps_is_not_changed_by_the_light_network(exported_light: Path, tmp_path: Path) -> None:
    (tmp_path / "skipping.py").write_text(SKIPPING)
    export(ExportOptions(f"{tmp_path / 'skipping.py'}:make", tmp_path / "plain", verify="quick"))
    samples = [load(each).sample("ddim:4", [1, 2], CONDITION, 2.0) for each in (exported_light, tmp_path / "plain")]
    np.testing.assert_allclose(samples[0], samples[1], atol=1e-6)


def test_a_light_step_is_the_light_graph_on_the_features_of_the_step_before(exported_light: Path) -> None:
    """The second of two steps of DDIM, by hand."""
    sampler = load(exported_light)
    manifest = sampler.bundle.manifest
    states = list(sampler.steps("ddim:2@trailing+every", [1, 2], CONDITION))
    full, light = (
        io.load(exported_light / each.bodies["float32"].graph.file, root=exported_light)
        for each in (manifest, manifest.networks["light"])
    )
    feeds = []
    for network, state in zip(("denoiser", "light"), states, strict=True):
        call = sampler.denoiser.networks[network].feeds(sampler.compile("ddim:2@trailing"), 2, lambda _: {
            "class": np.array([0, 1])})(state.index)  # fmt: skip
        feeds.append({"x": state.u, **call})
    features = run(full, feeds[0])["next_features"]
    expected = run(light, {**feeds[1], "carried_features": features})["output"]
    np.testing.assert_allclose(states[1].outputs[0], expected, atol=1e-5)
    plain = list(sampler.steps("ddim:2@trailing", [1, 2], CONDITION))
    assert np.abs(expected - plain[1].outputs[0]).max() > 1e-3  # not what a full step returns


@pytest.mark.parametrize("seeds", [[3], [3, 4, 5]])
def test_a_sample_with_light_steps_does_not_depend_on_its_batch(exported_light: Path, seeds: list[int]) -> None:
    sampler, plan = load(exported_light), "dpmpp_2m:6+every(interval=3, linear=True)"
    whole = sampler.sample(plan, [3, 4, 5, 6], {"class": [0, 1, 2, 0]}, 2.0)
    part = sampler.sample(plan, seeds, {"class": [0, 1, 2][: len(seeds)]}, 2.0)
    np.testing.assert_allclose(part, whole[: len(seeds)], atol=1e-6)


def test_a_light_graph_that_does_not_return_the_full_output_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def split_wrong(body: Graph, cut: Cut, features: str) -> SplitBody:
        parts = split_body(body, cut, features)
        constants = {
            name: array * 1.01 if array.dtype == np.float32 else array for name, array in parts.light.constants.items()
        }
        return replace(parts, light=replace(parts.light, constants=constants))

    monkeypatch.setattr(light_network, "split_body", split_wrong)
    with refuses("the light network of --cache differs from the denoiser"):
        export_light(tmp_path)
    assert not (tmp_path / "bundle").exists()


def test_an_unknown_cut_lists_the_cuts_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cut 'depth9'; choose depth1"):
        export_light(tmp_path, "depth9")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"expert": ("noisy=fashion_mnist@-1",)}, "cannot be used with --expert"),
        ({"lora_slots": ("*",)}, "--cache with --lora-slots"),
    ],
)
def test_what_a_light_network_excludes_is_refused_by_name(
    options: dict[str, tuple[str, ...]], what: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=what):
        export_light(tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("carrying_denoiser", "carried tensors"),
        ("named_outputs_denoiser", "named outputs"),
        ("per_position_time_denoiser", "a time for each position"),
        ("token_denoiser", "a vocabulary"),
    ],
)
def test_a_denoiser_of_this_kind_has_no_light_network(name: str, what: str, tmp_path: Path) -> None:
    source = f"{Path(__file__).parents[1] / 'networks' / name}.py:make"
    with refuses(("--cache", what)):
        export(ExportOptions(source, tmp_path / "bundle", cache="depth1"))


def test_calls_that_carry_nothing_refuse_light_steps(exported_light: Path) -> None:
    sampler = load(exported_light)
    with pytest.raises(UserError, match="has light steps, which read features"):
        sampler.sample_each(["ddim:4+every"], [1], {"class": [0]})


def test_a_plan_with_light_steps_is_refused_by_another_bundle(exported_light: Path, tmp_path: Path) -> None:
    (tmp_path / "skipping.py").write_text(SKIPPING)
    export(ExportOptions(f"{tmp_path / 'skipping.py'}:make", tmp_path / "plain", verify="quick"))
    plan = load(exported_light).compile("ddim:4+every")
    with refuses(("features", "carries none")):
        load(tmp_path / "plain").sample(plan, [1], {"class": [0]})


def test_a_plan_whose_light_steps_read_nothing_is_refused(exported_light: Path) -> None:
    sampler = load(exported_light)
    plan = sampler.compile("ddim:4+every")
    steps = tuple(msgspec.structs.replace(step, carry_in=()) for step in plan.steps)
    with refuses(("'features'", "light", "step 1")):
        sampler.sample(msgspec.structs.replace(plan, steps=steps), [1], {"class": [0]})


@pytest.mark.parametrize(
    ("place", "fields", "what"),
    [
        (0, {"carry": ()}, "cannot run: step 1 reads slot 0 of 'features', which is empty"),
        (1, {"network": "denoiser"}, "reads features in step 1, but it is full"),
        (1, {"carry": (Carry(0, 0, (1.0, 0.0)),)}, "writes features in step 1, but it is light"),
    ],
)
def test_a_plan_whose_steps_exchange_features_otherwise_is_refused(
    exported_light: Path, place: int, fields: dict[str, Any], what: str
) -> None:
    sampler = load(exported_light)
    plan = sampler.compile("ddim:2+every")
    steps = [msgspec.structs.replace(step, **fields) if n == place else step for n, step in enumerate(plan.steps)]
    with pytest.raises(UserError, match=what):
        sampler.sample(msgspec.structs.replace(plan, steps=tuple(steps)), [1], {"class": [0]})


def test_a_plan_file_that_keeps_features_is_refused(exported_light: Path, tmp_path: Path) -> None:
    sampler = load(exported_light)
    plan = sampler.compile("ddim:4+every")
    kept = msgspec.structs.replace(plan, banks=(msgspec.structs.replace(plan.banks[0], is_kept=True),))
    (tmp_path / "kept.json").write_bytes(encode(kept))
    with refuses("'features'"):
        sampler.sample(tmp_path / "kept.json", [1], {"class": [0]})


def test_features_of_another_shape_than_the_light_network_reads_are_damaged(exported_light: Path) -> None:
    manifest = open_bundle(exported_light).manifest
    light = manifest.networks["light"]
    other = msgspec.structs.replace(light, features=msgspec.structs.replace(light.features, shape=(24, 8, 4)))
    assert "features" in [
        field for field, _ in manifest_problems(msgspec.structs.replace(manifest, networks={"light": other}))
    ]


def test_a_manifest_with_only_one_side_of_the_cut_is_damaged(exported_light: Path) -> None:
    manifest = open_bundle(exported_light).manifest
    for damaged in (
        msgspec.structs.replace(manifest, networks={}),
        msgspec.structs.replace(manifest, networks={"other": manifest.networks["light"]}),
    ):
        assert any("light" in reason for _, reason in manifest_problems(damaged))


def test_the_next_command_calibrates_both_networks(exported_light: Path) -> None:
    assert "--plan dpmpp_2m:8+every" in calibrate_next(exported_light).command


def test_inspect_names_the_cut_and_the_light_network(exported_light: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(exported_light)]) == 0
    printed = capsys.readouterr().out
    assert "returns features [24, 8, 8] of the cut depth1" in printed and "network light, for light steps" in printed


def test_both_networks_share_one_prologue_in_memory(exported_light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, real = list[str](), OnnxRuntime.load
    monkeypatch.setattr(OnnxRuntime, "load", lambda self, *given: opened.append(given[1]) or real(self, *given))
    load(exported_light).sample("ddim:4+every", [0], {"class": [1]})
    assert sorted(opened) == ["float32", "float32", "prologue"]
