"""The text encoder and the autoencoder of a body: their forms, their judgement, and runs that use them."""

import logging
import re
import shutil
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.calibration import replaced_graphs
from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.float_runs import FloatRuns
from fewstep.calibration.graph_forms import store_graph
from fewstep.calibration.graph_verdict import PairedQuality
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.picture_quality import PictureJudge
from fewstep.calibration.precision.recipe import OtherGraph
from fewstep.calibration.replaced_graphs import GraphReplacer
from fewstep.calibration.second_moments import follow_first_trajectories
from fewstep.cli.describe.trials import describe_trials
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.graph.graph import Graph
from fewstep.measure.cost import body_bytes, call_bytes
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_run
from fewstep.measure.rollouts.seeds import BODY_SEEDS, VERDICT_SEEDS, SeedBatch
from fewstep.plans.any_plan import check_compiled
from fewstep.report.choosing import deployments
from fewstep.report.choosing.choose import open_judging
from fewstep.report.choosing.deployments import measure_deployments
from fewstep.report.choosing.engines import TimedEngine
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.manifest import NetworkEntry, ReplacedGraph
from fewstep.runtime.bundle.platforms import platform_of
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.companions import DECODER, ENCODER, TEXT_ENCODER
from fewstep.runtime.progress import SILENT
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.text import load_text_encoder
from tests.bundles import change_bundle
from tests.calibration.latent_bundle import PROMPTS, write_latent_bundle
from tests.calibration.test_calibrate import task_of
from tests.described_cpu import VNNI, describe_cpu
from tests.exact_int8 import EXACT_TARGET
from tests.refusals import refuses

TOGETHER = "; the networks around the denoiser may cost 1.5 dB together"
BODY, ALL = "int8-weights", {TEXT_ENCODER, DECODER, ENCODER}


def options(bundle: Path) -> CalibrateOptions:
    first = CalibrateOptions(bundle, plan="ddim:2", target=(BODY,), trajectories=4, threads=1)
    return replace(first, guidance=1.0, prompts=bundle.parent / "prompts.txt")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    folder = tmp_path_factory.mktemp("latent")
    return calibrate(options(write_latent_bundle(folder / "bundle")))


@pytest.fixture(scope="module")
def made(calibrated: Calibration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calibrated bundle, which no test changes."""
    return next(tmp_path_factory.getbasetemp().glob("latent*/bundle"))


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copy(made.parent / "prompts.txt", tmp_path)
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def pictures(bundle: Path, body: str, engine: str = "onnxruntime") -> np.ndarray:
    """The pictures of a body from prompt to picture, of the seeds on which calibration judges pictures."""
    lines, seeds = PROMPTS.splitlines(), BODY_SEEDS[:4]
    with load(bundle, body=body, backend=create_backend(engine, 1)) as sampler:
        text = load_text_encoder(sampler.bundle, 1).encode([lines[seed % len(lines)] for seed in seeds])
        return load_autoencoder(sampler.bundle, 1).decode(sampler.sample("ddim:2", seeds, text, guidance=1.0))


def test_the_users_measure_gets_the_conditions_of_float32(made: Path) -> None:
    """Of a body whose network reads those of its own text encoder."""
    task = task_of(options(made))
    runs = FloatRuns(task, task.plan, SILENT)
    recorded = record_run(task.sampler, check_compiled(task.plan), BODY_SEEDS[:2], task.conditions)
    replacer = GraphReplacer(task, runs, ())
    stored = {TEXT_ENCODER: store_graph(replacer.exported[TEXT_ENCODER], 8)}
    changed = replacer.with_graphs(stored, task.targets[0], recorded)
    assert changed.batch is recorded.batch
    rows = [float(np.abs(record.feeds[0][0]["row"]).sum()) for record in (recorded, changed)]
    assert rows[0] != rows[1]


@pytest.mark.parametrize("trajectories", [1, 4])
def test_ranges_of_a_decoder_are_of_float32s_samples_of_the_trajectories(made: Path, trajectories: int) -> None:
    task = task_of(replace(options(made), trajectories=trajectories))
    samples = follow_first_trajectories(task).samples
    replacer = GraphReplacer(task, FloatRuns(task, task.plan, SILENT), samples)
    (latents,) = {tuple(fed) for fed in replacer._feeds(DECODER)}
    fed = np.concatenate([feed[latents[0]] for feed in replacer._feeds(DECODER)])
    conditions = SeedBatch.from_manifest(task.sampler.bundle.manifest, task.seeds, task.conditions).conditions
    np.testing.assert_allclose(fed, task.sampler.sample(task.plan, task.seeds, conditions), atol=1e-6)


def test_a_text_encoder_is_judged_with_the_length_of_each_text(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = task_of(options(made)), list[tuple[int, ...]]()
    recorded = record_run(task.sampler, check_compiled(task.plan), BODY_SEEDS[:2], task.conditions)
    short = replace(recorded.batch, conditions={"text": recorded.batch.conditions["text"][:, :4]})

    def keep(run: RecordedRun, _: object) -> RecordedRun:
        seen.append(run.batch.conditions["text"].shape)
        return run

    monkeypatch.setattr(RecordedRun, "with_setup", keep)
    replacer = GraphReplacer(task, FloatRuns(task, task.plan, SILENT), ())
    stored = {TEXT_ENCODER: store_graph(replacer.exported[TEXT_ENCODER], 8)}
    replacer.with_graphs(stored, task.targets[0], replace(recorded, batch=short))
    assert seen == [short.conditions["text"].shape]


def test_all_networks_of_a_body_have_integers(made: Path) -> None:
    manifest = open_bundle(made).manifest
    replaces = manifest.bodies[BODY].replaces
    assert {*replaces} == ALL and all(graph.coverage is None for graph in replaces.values())
    assert manifest.text is not None and manifest.autoencoder is not None
    exported = {TEXT_ENCODER: manifest.text.graph, DECODER: manifest.autoencoder.decoder}
    for name, graph in exported.items():
        assert (made / replaces[name].file).stat().st_size < 0.32 * (made / graph.file).stat().st_size
    of_body = open_bundle(made).with_graphs_of(BODY).manifest
    assert of_body.text is not None and of_body.text.graph.file == replaces[TEXT_ENCODER].file
    assert of_body.autoencoder is not None and of_body.autoencoder.encoder is not None
    assert of_body.autoencoder.encoder.file == replaces[ENCODER].file and of_body.text.tokens == manifest.text.tokens
    assert open_bundle(made).with_graphs_of("float32").manifest == manifest
    assert open_bundle(made).with_graphs_of(BODY).with_graphs_of("float32").manifest == manifest


def test_the_trial_has_the_quality_of_the_whole_call(calibrated: Calibration, made: Path) -> None:
    (trial,) = calibrated.bodies[BODY].trials
    exact, stored = (pictures(made, name) for name in ("float32", BODY))
    assert trial.picture_psnr == pytest.approx(psnr(stored, exact).mean(), abs=0.05)
    assert any(
        f"{trial.picture_psnr:.1f} dB PSNR against float32 in its pic" in line for line in describe_trials((trial,))
    )


def test_a_body_is_judged_with_its_own_text_encoder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `measure` and by `choose`: on two held-out seeds, whose conditions float32 encodes by its own."""
    common: Any = {"prompts": made.parent / "prompts.txt", "guidance": 1.0, "seeds": 2, "threads": 1}
    judged: Any = {"columns": ("psnr",), "body": (BODY,), "plan": "ddim:2", "teacher_seeds": 1, "teacher": "ddim:4"}
    measured = measure(MeasureOptions(made, output=made.parent / "measured.json", **judged, **common))
    monkeypatch.setattr(deployments, "measure_ratios", lambda *_: ({"ddim:2": 1.0}, False))
    judging = open_judging(ChooseOptions(made, teacher="ddim:2", plan=("ddim:2",), **common))
    engine, tried = TimedEngine("onnxruntime", 1, 1.0), {"ddim:2": judging.reference_plan}
    (deployment,) = measure_deployments(judging, BODY, engine, tried, lambda threads: 1.0)
    lines, seeds = PROMPTS.splitlines()[:2], range(2)
    with load(made) as exact, load(made, body=BODY) as stored:
        texts = [load_text_encoder(sampler.bundle, 1).encode(lines) for sampler in (stored, exact)]
        reference = exact.sample("ddim:2", seeds, texts[1], guidance=1.0)
        own, float32 = (psnr(stored.sample("ddim:2", seeds, text, guidance=1.0), reference) for text in texts)
    assert np.abs(own - float32).min() > 0.1
    assert measured.qualities[0].against_float.values == pytest.approx(own, abs=0.02)
    assert deployment.quality.values == pytest.approx(own, abs=0.02)


def test_a_run_takes_the_networks_of_its_body(made: Path, tmp_path: Path) -> None:
    first = RunOptions(made, output=tmp_path / "x.png", plan="ddim:2", prompt=("a cat",), guidance=1.0)
    shown = [run(replace(first, precision=name, threads=1)).x for name in ("float32", BODY)]
    with load(made, BODY) as sampler:
        text = load_text_encoder(sampler.bundle).encode(["a cat"])
        expected = load_autoencoder(sampler.bundle).decode(sampler.sample("ddim:2", [0], text, guidance=1.0))
    errors = [np.abs(picture - expected).max() for picture in shown]
    assert errors[1] < 1e-5 < 1e-3 < errors[0]


def test_bytes_of_a_call_are_those_of_the_graphs_that_run(made: Path) -> None:
    bundle = open_bundle(made)
    size = {name: (made / name).stat().st_size for name in bundle.manifest.files}
    body = bundle.body(BODY)
    prologue = size["graphs/prologue.onnx"]
    assert body_bytes(bundle, BODY) == size[body.graph.file]
    replaced = sum(size[graph.file] for name, graph in body.replaces.items() if name != ENCODER)
    assert call_bytes(bundle, BODY) == size[body.graph.file] + replaced + prologue
    exported = sum(size[f"graphs/{name}.onnx"] for name in ("body", "prologue", "text", "decoder"))
    assert call_bytes(bundle, "float32") == exported


def test_a_packed_body_leaves_the_networks_of_float32_behind(made: Path, tmp_path: Path) -> None:
    packed = pack(PackOptions(made, tmp_path / "packed", (BODY,)))
    assert packed.text is not None and packed.text.graph.file == packed.bodies[BODY].replaces[TEXT_ENCODER].file
    assert len([name for name in packed.files if name.endswith(".onnx")]) == 5
    assert np.array_equal(pictures(tmp_path / "packed", BODY), pictures(made, BODY))


@pytest.mark.parametrize("name", [TEXT_ENCODER, DECODER])
def test_a_damaged_network_is_refused(copied: Path, name: str) -> None:
    graph = open_bundle(copied).body(BODY).replaces[name]
    opens = load_text_encoder if name == TEXT_ENCODER else load_autoencoder
    bundle = open_bundle(copied).with_graphs_of(BODY)
    (copied / graph.file).write_bytes(b"damaged")
    with refuses(f"file {graph.file} is damaged", "calibrate"):
        opens(bundle)
    assert any(graph.file in damage.what for damage in verify(VerifyOptions(copied)).damages)
    (copied / graph.file).unlink()
    with refuses(f"file {graph.file} is missing", "calibrate"):
        opens(bundle)


def test_a_foreign_network_is_refused(copied: Path) -> None:
    """The decoder's file is that of the encoder, whose hash the manifest has."""
    manifest = open_bundle(copied).manifest
    body = manifest.bodies[BODY]
    foreign = msgspec.structs.replace(body.replaces[DECODER], file=body.replaces[ENCODER].file)
    changed = msgspec.structs.replace(body, replaces={**body.replaces, DECODER: foreign})
    change_bundle(copied, bodies={**manifest.bodies, BODY: changed})
    with refuses(foreign.file):
        load_autoencoder(open_bundle(copied).with_graphs_of(BODY))
    assert any(foreign.file in damage.what for damage in verify(VerifyOptions(copied)).damages)
    wrong = ReplacedGraph(**msgspec.structs.asdict(foreign) | {"outputs": foreign.inputs})
    changed = msgspec.structs.replace(body, replaces={DECODER: wrong})
    with refuses(("replaces['decoder of latents']", "are not those of the manifest's decoder of latents")):
        change_bundle(copied, bodies={**manifest.bodies, BODY: changed})
        open_bundle(copied)


def test_a_decoder_that_loses_too_much_stays_float(
    copied: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(graph: Graph, bits: int, moments: object = None) -> OtherGraph:
        stored = store_graph(graph, bits).graph
        is_decoder = graph.inputs[0].name == "latent"
        spoilt = {name: array * 0 if array.dtype == np.int8 else array for name, array in stored.constants.items()}
        return OtherGraph(replace(stored, constants=spoilt) if is_decoder else stored)

    caplog.set_level(logging.INFO, "fewstep")
    monkeypatch.setattr(replaced_graphs, "store_graph", spoil)
    body = calibrate(options(copied)).bodies[BODY]
    assert {*body.replaces} == {TEXT_ENCODER, ENCODER} and body.reasons.keys() == {DECODER}
    assert re.fullmatch(
        r"8 bits would cost \d+\.\d dB \(\d+\.\d to \d+\.\d\) of the pictures of 4 seeds, "
        r"for \d\d\.\d % fewer bytes of the body" + TOGETHER,
        body.reasons[DECODER],
    )
    assert (body.trials[0].picture_psnr or 0.0) > 40.0  # by the decoder of float32
    assert "decoder of latents in float32, not 8 bits" in caplog.text


def qualities(before: float, after: float, alone: float | None = None) -> Callable[..., Generator[PairedQuality]]:
    """A method that yields the same quality of four pictures."""
    own = after if alone is None else alone

    def judge(*_: object) -> Generator[PairedQuality]:
        yield PairedQuality((before,) * 4, (after,) * 4, (own,) * 4)

    return judge


def test_a_decoder_that_is_worth_its_loss_stays_float_if_it_is_too_large(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PictureJudge, "judge_decoder", qualities(41.0, 39.2))
    body = calibrate(options(copied)).bodies[BODY]
    assert re.fullmatch(
        r"8 bits would cost 1\.8 dB \(1\.8 to 1\.8\) of the pictures of 4 seeds, for \d\d\.\d % fewer bytes of the body"
        + TOGETHER,
        body.reasons[DECODER],
    )


def test_a_decoder_whose_loss_is_hidden_is_taken(
    copied: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Next to errors of 44 dB, pictures of 56 dB cost 0.3."""
    caplog.set_level(logging.INFO, "fewstep")
    monkeypatch.setattr(PictureJudge, "judge_decoder", qualities(70.0, 56.0))
    body = calibrate(options(copied)).bodies[BODY]
    assert DECODER in body.replaces and DECODER not in body.reasons
    assert "decoder of latents in float32, not 8 bits" in caplog.text
    assert "decoder of latents in 8 bits after all: a loss of 0.3 dB next to errors of 44 dB" in caplog.text


@pytest.mark.parametrize(("after", "alone", "is_taken"), [(38.7, 44.6, True), (36.6, 39.2, False)])
def test_an_encoder_is_judged_without_the_error_of_the_body(
    copied: Path, monkeypatch: pytest.MonkeyPatch, after: float, alone: float, is_taken: bool
) -> None:
    """A call from noise does not run it. The pictures of the body have 12.5 dB."""
    monkeypatch.setattr(PictureJudge, "judge_decoder", qualities(12.5, 12.4))
    monkeypatch.setattr(PictureJudge, "judge_encoder", qualities(40.0, after, alone))
    body = calibrate(options(copied)).bodies[BODY]
    assert body.reasons[DECODER] == "the pictures have only 12.5 dB without it"
    assert (ENCODER in body.replaces) == is_taken == (ENCODER not in body.reasons)


def test_pictures_are_judged_on_more_seeds_until_a_verdict_is_certain(copied: Path) -> None:
    """4 of 16 seeds at a time: those that judge all bodies, and then further ones, which are decoded once."""
    task = task_of(replace(options(copied), trajectories=16))
    replacer = GraphReplacer(task, FloatRuns(task, task.plan, SILENT), ())
    stored = store_graph(replacer.exported[ENCODER], 8).graph
    judge = replacer._pictures
    parts = [*judge.judge_encoder(stored, task.targets[0])]
    seeds = [seed for part in judge.parts() for seed in part.run.batch.seeds[part.rows]]
    assert [len(part.alone) for part in parts] == [4, 4, 4, 4]
    assert seeds == [*BODY_SEEDS[:8], *VERDICT_SEEDS[:8]]
    with load(copied, body="float32") as sampler:
        autoencoder = load_autoencoder(sampler.bundle, 1)
    latents = np.concatenate([part.latents for part in judge.parts()])
    shown = np.concatenate([part.pictures[0] for part in judge.parts()])
    assert np.abs(autoencoder.decode(latents) - shown).max() < 1e-5


def test_pictures_of_float32_are_made_once_for_all_bodies(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 pictures: float32's and the graph's for the first body, and the graph's for the second."""
    task = task_of(replace(options(copied), trajectories=4))
    replacer = GraphReplacer(task, FloatRuns(task, task.plan, SILENT), ())
    stored = store_graph(replacer.exported[ENCODER], 8).graph
    judge, decoded = replacer._pictures, list[int]()
    parts = len(list(judge.parts()))
    decode = PictureJudge.decode
    monkeypatch.setattr(PictureJudge, "decode", lambda *given: decoded.append(len(given[1])) or decode(*given))
    first, second = ([*judge.judge_encoder(stored, task.targets[0])] for _ in range(2))
    assert [part.alone for part in first] == [part.alone for part in second]
    assert len(decoded) == 3 * parts


def test_companions_of_other_engines_have_the_form_of_this_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONNX Runtime runs them next to OpenVINO, on ARM too."""
    describe_cpu(monkeypatch, tmp_path, VNNI)
    names = [replaced_graphs._companion_target(load_target(name)).name for name in ("openvino", "cpu-x86")]
    describe_cpu(monkeypatch, tmp_path, ("asimddp",), "aarch64")
    names += [replaced_graphs._companion_target(load_target(name)).name for name in ("openvino", "cpu-arm")]
    assert names == ["cpu-x86", "cpu-x86", "cpu-arm", "cpu-arm"]


def test_a_bundle_of_the_schema_before_opens(copied: Path) -> None:
    """It calls the graphs of a body its setup."""
    manifest = open_bundle(copied).manifest
    document = msgspec.json.decode((copied / "manifest.json").read_bytes())
    body = document["bodies"][BODY]
    document["schema"], body["setup"] = 3, body.pop("replaces")
    (copied / "manifest.json").write_bytes(msgspec.json.encode(document))
    assert open_bundle(copied).manifest == manifest


@pytest.mark.slow
@pytest.mark.parametrize("target", [EXACT_TARGET, "openvino-no-vnni"])
def test_an_int8_body_has_an_int8_text_encoder_and_autoencoder(copied: Path, target: str) -> None:
    """ONNX Runtime runs those of OpenVINO's bodies too."""
    body = calibrate(replace(options(copied), target=(target,))).bodies[f"int8-{target}"]
    counted = {name: graph.coverage and graph.coverage.int8_ops for name, graph in body.replaces.items()}
    assert counted == {TEXT_ENCODER: ("p0", "p1", "p2"), DECODER: ("c1", "c2"), ENCODER: ("c1", "c2")}
    platform = platform_of(target)
    assert platform is not None
    exact, int8 = pictures(copied, "float32"), pictures(copied, f"int8-{target}", platform.backend)
    assert body.trials[0].picture_psnr == pytest.approx(psnr(int8, exact).mean(), abs=0.1)


@pytest.mark.slow
def test_a_body_of_4_bits_has_a_text_encoder_of_4_bits(copied: Path) -> None:
    body = calibrate(replace(options(copied), target=("int4-weights",))).bodies["int4-weights"]
    eight = open_bundle(copied).body(BODY).replaces
    sizes = [(copied / replaces[TEXT_ENCODER].file).stat().st_size for replaces in (body.replaces, eight)]
    assert sizes[0] < sizes[1]
    (four, other) = (replaces[DECODER].file.rpartition("-")[2] for replaces in (body.replaces, eight))
    assert four == other  # the hash of a decoder of 8 bits


def test_of_two_networks_the_denoisers_body_has_the_autoencoder(tmp_path: Path) -> None:
    """The text encoder serves both networks, and stays float32."""
    bundle = write_latent_bundle(tmp_path / "bundle")
    manifest = open_bundle(bundle).manifest
    expert = NetworkEntry(
        **{"until": -0.5, "prediction": manifest.prediction, "inputs": {"text": "text"}, "bodies": manifest.bodies},
        **{"source": "noisy", "source_sha256": "0" * 64, "prologue": manifest.prologue},
    )
    change_bundle(bundle, networks={"noisy": expert})
    result = calibrate(replace(options(bundle), plan="ddim:4"))
    assert {*result.bodies[BODY].replaces} == {DECODER, ENCODER}
    assert result.bodies[BODY].reasons[TEXT_ENCODER] == "several networks share it"
    assert not result.others["noisy"].bodies[BODY].replaces
    with load(bundle, body=BODY) as sampler:
        own = load_autoencoder(sampler.bundle, 1)
        decoder = sampler.bundle.manifest.autoencoder
        assert decoder is not None and decoder.decoder.file == result.bodies[BODY].replaces[DECODER].file
        assert own.decode(np.zeros((1, *manifest.x_shape), np.float32)).shape == (1, 3, 8, 8)
