"""Calibration, comparison and sampling with the user's texts of different lengths, each at its own length."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch, which exports the network, is not installed")

from fewstep.calibration import calibrated_body
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.ranges.read_table import load as load_ranges
from fewstep.cli.conditions import list_required_arguments
from fewstep.cli.describe.results_table import format_results
from fewstep.cli.describe.trials import describe_trials
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.fitting.conditions import fit_conditions
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.rollouts.conditions_file import describe_seen_records, read_conditions
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.report.choosing.choose import open_judging
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.figures import collect_figures
from fewstep.report.options import ReportOptions
from fewstep.report.report_task import open_report_task
from fewstep.report.sections.quality import quality_section
from fewstep.runtime import UserError, load
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import task_of
from tests.export.networks import text_to_sound_network

LENGTHS = (8, 13, 24, 40, 64)
PLAN = "ddim:3@trailing"
TARGET = "cpu-x86-no-vnni"  # computed exactly by every CPU
BODY = f"int8-{TARGET}"


def texts(length: int, rows: int = 4) -> np.ndarray:
    return np.random.default_rng(length).uniform(-1, 1, (rows, 6, length)).astype(np.float32)


def write_texts(folder: Path, *lengths: int, gain: float = 1.0, rows: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    for length in lengths:
        np.savez(folder / f"{length}.npz", text=gain * texts(length, rows))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    export(ExportOptions(f"{text_to_sound_network.__file__}:make", folder / "bundle"))
    return folder / "bundle"


@pytest.fixture(scope="module")
def calibrated(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, calibrated with a folder of texts of all lengths."""
    folder = tmp_path_factory.mktemp("calibrated")
    bundle = shutil.copytree(exported, folder / "bundle")
    given = write_texts(folder / "texts", *LENGTHS)
    calibrate(CalibrateOptions(bundle, PLAN, target=(TARGET,), trajectories=20, guidance=1.0, conditions=given))
    return bundle


def test_each_trajectory_has_the_length_of_its_text(exported: Path, tmp_path: Path) -> None:
    given = write_texts(tmp_path / "texts", *LENGTHS)
    task = task_of(CalibrateOptions(exported, PLAN, target=(TARGET,), trajectories=15, conditions=given))
    length_of = dict[int, int]()
    for call in task.run_trajectories(task.sampler.network().graph):
        length_of |= dict.fromkeys(call.seeds, call.feeds["x"].shape[-1])
    assert task.conditions is not None
    own = [text.shape[-1] for text in task.conditions["text"]]
    assert [length_of[seed] for seed in task.seeds] == own
    assert {length: own.count(length) for length in own} == dict.fromkeys(LENGTHS, 3)


def test_one_text_of_each_length_judges_and_does_not_calibrate(exported: Path, tmp_path: Path) -> None:
    given = write_texts(tmp_path / "texts", *LENGTHS)
    task = task_of(CalibrateOptions(exported, PLAN, target=(TARGET,), trajectories=15, conditions=given))
    assert task.conditions is not None and task.judging.records is not None
    own, judged = ({text.tobytes() for text in records["text"]} for records in (task.conditions, task.judging.records))
    assert len(own) == 15 and not own & judged and task.held_out_count == len(judged) == 5
    assert {text.shape[-1] for text in task.judging.records["text"]} == {*LENGTHS}


def test_records_that_judge_are_named_with_those_that_repeat(
    exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = write_texts(tmp_path / "texts", *LENGTHS)
    task = task_of(CalibrateOptions(exported, PLAN, target=(TARGET,), trajectories=20, conditions=given))
    assert "15 records of conditions serve 20 samples, and 5 others judge: each is used more than once" in caplog.text
    assert " --conditions FOLDER " in f"{task.command((TARGET,))} "


def test_ranges_cover_the_texts_of_every_length(exported: Path, tmp_path: Path) -> None:
    """A body that saw the texts of one file only does not have the range of a louder file of another length."""
    highest = []
    for name, loud in (("quiet", 1.0), ("loud", 12.0)):
        bundle, given = shutil.copytree(exported, tmp_path / name), write_texts(tmp_path / f"{name}-texts", 8, 24, 64)
        write_texts(given, 13, gain=loud)
        calibrate(CalibrateOptions(bundle, PLAN, target=(TARGET,), trajectories=16, guidance=1.0, conditions=given))
        table = load_ranges(next(bundle.rglob("*ranges*.safetensors")))
        highest.append(max(ranges.pooled.high for ranges in table.tensors.values()))
    assert highest[1] > 2 * highest[0]


def test_the_quality_is_stated_at_each_length(calibrated: Path) -> None:
    (trial,) = open_bundle(calibrated).manifest.bodies[BODY].trials
    assert trial.seeds == sum(quality.seeds for quality in trial.by_size) == 20  # as many as trajectories
    lengths = [quality.sizes["frames"] for quality in trial.by_size]
    assert lengths == [*LENGTHS]
    assert trial.psnr == pytest.approx(
        sum(quality.psnr * quality.seeds for quality in trial.by_size) / trial.seeds, abs=0.02
    )
    said = next(line for line in describe_trials([trial]) if line.startswith("by size"))
    first = trial.by_size[0]
    assert said.startswith(f"by size: frames 8 {first.psnr:.1f} dB, worst {first.worst:.1f}; frames 13 ")


@pytest.mark.parametrize(("trajectories", "seeds"), [(24, 14), (8, 8)], ids=["further seeds", "no further seeds"])
def test_judging_ends_when_every_length_is_judged(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trajectories: int, seeds: int
) -> None:
    """The first 8 seeds have one record each of 8 of the 9 lengths. The sixth further seed has the last one."""
    monkeypatch.setattr(calibrated_body, "NARROW", 1000.0)
    lengths = (*LENGTHS, 16, 32, 48, 56)
    bundle, given = shutil.copytree(exported, tmp_path / "bundle"), write_texts(tmp_path / "texts", *lengths)
    options = CalibrateOptions(bundle, PLAN, target=(TARGET,), trajectories=trajectories, guidance=1.0)
    calibrate(replace(options, conditions=given))
    (trial,) = open_bundle(bundle).manifest.bodies[BODY].trials
    assert trial.seeds == seeds and [each.sizes["frames"] for each in trial.by_size] == sorted(lengths)
    said = next(line for line in describe_trials([trial]) if line.startswith("by size"))
    assert said.count(": not judged") == (seeds == 8)


def test_judging_does_not_wait_for_a_length_that_no_record_that_judges_has(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one text of 16 frames calibrates."""
    monkeypatch.setattr(calibrated_body, "NARROW", 1000.0)
    bundle, given = shutil.copytree(exported, tmp_path / "bundle"), write_texts(tmp_path / "texts", *LENGTHS)
    write_texts(given, 16, rows=1)
    options = CalibrateOptions(bundle, PLAN, target=(TARGET,), trajectories=24, guidance=1.0, conditions=given)
    calibrate(options)
    (trial,) = open_bundle(bundle).manifest.bodies[BODY].trials
    assert trial.seeds == 8
    assert [(of_size.sizes["frames"], of_size.seeds > 0) for of_size in trial.by_size] == [
        *[(8, True), (13, True), (16, False), (24, True), (40, True), (64, True)]
    ]


def test_int8_is_near_float32_at_each_length(calibrated: Path) -> None:
    for length in (*LENGTHS, 33):
        samples = [
            load(calibrated, body=body).with_options(frames=length).sample(PLAN, [0, 1], {"text": texts(length, 2)})
            for body in ("float32", BODY)
        ]
        assert psnr(*samples[::-1]).min() > 40, length


def test_measure_and_choose_sample_each_text_at_its_length(calibrated: Path, tmp_path: Path) -> None:
    given = write_texts(tmp_path / "texts", *LENGTHS)
    asked = MeasureOptions(
        calibrated, seeds=10, conditions=given, columns=("psnr",), teacher="dpmpp_2m:12", teacher_seeds=6, threads=1
    )
    results = measure(asked)
    (quality,) = results.qualities
    records, bundle = read_conditions(given, open_bundle(calibrated).manifest), open_bundle(calibrated)
    expected, batches = list[float](), [*SeedBatch.split_by_size(bundle.manifest, range(10), records, 8)]
    for batch in batches:
        samplers = [batch.at_size(load(calibrated, body=body)) for body in (BODY, "float32")]
        expected += psnr(*(sampler.sample(PLAN, batch.seeds, batch.conditions) for sampler in samplers)).tolist()
    assert [batch.x_shape[-1] for batch in batches] == [13, 24, 40, 64, 8]  # by the names of the files
    assert quality.against_float is not None and quality.against_float.values == pytest.approx(expected, abs=0.01)
    assert [(each.sizes["frames"], each.seeds) for each in quality.by_size] == [(length, 2) for length in LENGTHS]
    worst = min(quality.by_size, key=lambda each: each.worst)
    assert worst.worst_seed == int(np.argmin(expected)) and worst.worst == pytest.approx(min(expected), abs=0.02)
    said = (
        f"{BODY} by size: frames 8 {quality.by_size[0].psnr:.1f} dB, worst {quality.by_size[0].worst:.1f}; frames 13 "
    )
    assert any(str(line).startswith(said) for line in format_results(results, calibrated))
    page = re.sub("<[^>]*>", "|", quality_section(results).markup)
    assert re.search(rf"{BODY}, frames 64\|+{quality.by_size[-1].psnr:.1f}.dB\|", page)
    judge = open_judging(ChooseOptions(calibrated, seeds=10, conditions=given, threads=1))
    samples = judge.sample_plan(judge.reference, judge.plan, 4)
    assert [sample.shape[-1] for sample in samples] == [batch.x_shape[-1] for batch in batches for _ in batch.seeds]


@pytest.mark.slow
def test_a_report_draws_the_samples_of_one_size(calibrated: Path, tmp_path: Path) -> None:
    asked = ReportOptions(
        calibrated,
        tmp_path / "report.html",
        seeds=8,
        conditions=write_texts(tmp_path / "texts", *LENGTHS),
        teacher="dpmpp_2m:12",
        teacher_seeds=5,
        threads=1,
    )
    results, samples = collect_figures(open_report_task(asked))
    assert results.qualities[0].against_float is not None and results.qualities[0].against_float.seeds == 8
    assert samples is not None and samples.reference.shape == (2, 4, 13) and len(samples.labels) == 2
    assert samples.teacher.shape == (2, 4, 13) and samples.labels == ["seed 0", "seed 1"]


def test_a_next_command_samples_the_first_file(exported: Path, tmp_path: Path) -> None:
    given = write_texts(tmp_path / "texts", 24, 13)
    (given / "NOTES").touch()
    assert list_required_arguments(open_bundle(exported).manifest, given) == ["--conditions", str(given / "13.npz")]


def test_a_fit_uses_the_most_frequent_length(exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = write_texts(tmp_path / "texts", 13, 24)
    np.savez(given / "more.npz", text=texts(24, 30))
    used = fit_conditions(open_bundle(exported), given, None)
    assert used.fit is not None and used.fit["text"].shape[1:] == (6, 24)
    assert "the fit needs samples of one size: it uses the 34 of 38 records of frames 24" in caplog.text


def test_run_takes_the_length_of_its_text(exported: Path, tmp_path: Path) -> None:
    given = write_texts(tmp_path / "texts", 40)
    options = RunOptions(exported, PLAN, conditions=given / "40.npz", output=tmp_path / "x.npy", guidance=1.0)
    assert run(options).x.shape == (4, 4, 40)
    said = "13.npz gives frames 13 and 40.npz gives frames 40, but one run writes samples of one size; run each file by"
    with pytest.raises(UserError, match=said):
        run(replace(options, conditions=write_texts(given, 13)))


def test_what_does_not_fit_is_one_line(exported: Path, tmp_path: Path) -> None:
    manifest = open_bundle(exported).manifest
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no file of conditions; give it .npz or .safetensors files with an"):
        read_conditions(tmp_path / "empty", manifest)
    with pytest.raises(
        UserError, match=r"7.npz: condition .text. has the shape \[6, 7\]: frames 7 is outside its range; give frames 8"
    ):
        read_conditions(write_texts(tmp_path / "short", 13, 7), manifest)
    asked = CalibrateOptions(exported, PLAN, size=("24",), conditions=write_texts(tmp_path / "texts", 13))
    with pytest.raises(UserError, match="--size cannot be used with your own conditions, whose shapes give each"):
        task_of(asked)


def test_a_measurement_on_the_conditions_of_the_calibration_says_so(calibrated: Path, tmp_path: Path) -> None:
    bodies, manifest = open_bundle(calibrated).manifest.bodies, open_bundle(calibrated).manifest
    files = (write_texts(tmp_path / "same", *LENGTHS), write_texts(tmp_path / "some", *LENGTHS[:4]))
    same, some = (read_conditions(file, manifest) for file in files)
    (said,) = describe_seen_records(bodies, same)
    assert said.startswith("int8-") and "records that judge calibrated it too" in said
    (said,) = describe_seen_records(bodies, some)
    assert f" of the {len(next(iter(some.values())))} records" in said and [*describe_seen_records(bodies, None)] == []
