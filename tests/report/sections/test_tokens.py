"""Token denoisers in `calibrate`, `measure` and `report`: token agreement, feature distances and timings."""

import shutil
from math import log
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.main import main
from fewstep.measure.distances.features import open_extractor
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import TokenQuality, TokenStepQuality
from fewstep.plans.errors import UserError
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.report.sections.tokens import _steps
from tests.refusals import refuses


@pytest.fixture(scope="module")
def bundle(exported_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(exported_tokens, tmp_path_factory.mktemp("judged_tokens") / "bundle")
    calibrate(CalibrateOptions(path, trajectories=6, target=("cpu-x86",)))
    return path


@pytest.fixture(scope="module")
def means(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extractor of ids [B, 2, 12]: the mean of each codebook."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 2, 12])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 2])
    cast = helper.make_node("Cast", ["ids"], ["floats"], to=TensorProto.FLOAT)
    mean = helper.make_node("ReduceMean", ["floats"], ["features"], axes=[2], keepdims=0)
    graph = helper.make_graph([cast, mean], "means", [ids], [features])
    path = tmp_path_factory.mktemp("means") / "means.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_report_has_each_step_s_agreement(bundle, tmp_path):
    options = {"seeds": 20, "batches": (1,), "rounds": 1, "turn_seconds": 0.01}
    results = report(ReportOptions(bundle, tmp_path / "page.html", **options))
    (quality,) = results.qualities
    assert results.teacher is results.float_against_teacher is quality.against_teacher is None
    assert quality.against_float.seeds == 20 and quality.against_float.mean > 25
    assert [step.index for step in quality.tokens.steps] == list(range(8)) == [s.group for s in quality.tokens.steps]
    assert 0 < quality.tokens.disagreement < 0.08 and 0.8 < quality.tokens.same <= 1
    page = (tmp_path / "page.html").read_text()
    assert "Most likely tokens that <a" in page and "KL divergence (nats)" in page and "PSNR" not in page
    assert [timing.name for timing in results.races[0].timings] == ["float32", "int8-cpu-x86"]


def test_a_page_has_the_masked_share_of_any_lambda():
    steps = tuple(TokenStepQuality(at, lam, 0, 0.0, 0.0) for at, lam in enumerate((None, -1000.0, log(3), 1000.0)))
    page = str(_steps("int8", TokenQuality(0.0, 1.0, steps)))
    assert [page.count(f">{share}<") for share in ("100 %", "25 %", "0 %")] == [2, 1, 1]


def test_distances_are_of_what_an_extractor_makes_of_ids(bundle, means, tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).integers(0, 16, (200, 2, 12)))
    asked = {"seeds": 20, "samples": 100, "features": str(means), "resamples": 20}
    results = measure(MeasureOptions(bundle, ("psnr", "fd"), tmp_path / "x.json", data=tmp_path / "data.npy", **asked))
    (body,) = results.qualities
    assert results.teacher is None and body.tokens.disagreement < 0.08 and body.against_float.seeds == 20
    own, data = body.distances
    assert own.samples == own.references == 100 and data.references == 200
    assert own.frechet < data.frechet


def test_what_ids_cannot_be_is_one_line(bundle, means, tmp_path, capsys):
    np.save(tmp_path / "data.npy", np.full((10, 2, 12), 16))
    asked = {"seeds": 4, "samples": 100, "features": str(means)}
    with refuses("not ids", ("0 to 15", "[N, 2, 12]")):
        measure(MeasureOptions(bundle, ("psnr", "fd"), tmp_path / "x.json", data=tmp_path / "data.npy", **asked))
    with pytest.raises(UserError, match="cannot extract features"):
        open_extractor(str(means), (2, 12))
    with refuses(("--teacher likeliest:24", "does not apply to tokens")):
        report(ReportOptions(bundle, tmp_path / "page.html", teacher="likeliest:24"))
    for verb, page in (("report", "page.html"), ("measure", "x.json")):
        assert main([verb, str(bundle), "-o", str(tmp_path / page), "--plan", "mdlm:8", "--dry-run"]) == 1
        assert "mdlm:8' may skip evaluations" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_shows_agreement(bundle, tmp_path, capsys):
    assert main(["measure", str(bundle), "--seeds", "4", "--columns", "psnr"]) == 0
    assert "differ" in capsys.readouterr().out
    assert main(["report", str(bundle), "--seeds", "4", "--rounds", "1", "--turn-seconds", "0.01"]) == 0
    said = capsys.readouterr().out
    assert "same" in said and "PSNR" not in said
    for verb in ("report", "measure"):
        assert main([verb, str(bundle), "--dry-run"]) == 0
        assert "the teacher" not in capsys.readouterr().out


def test_measure_times_a_guided_step(bundle):
    result = measure(MeasureOptions(bundle, ("ms",), batches=(2,), rounds=1, turn_seconds=0.01))
    assert (result.plan, result.races[0].batch) == ("maskgit:8", 4)
    assert result.worst_ratio("int8-cpu-x86") is not None
