"""int8 of token denoisers: counted along a token plan, judged by likeliest tokens at float32's states."""

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.calibration_settings import read_settings
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.sample_space import record_judging_run
from fewstep.cli.main import main
from fewstep.cli.run_plan import describe_calibration_mismatch
from fewstep.graph.files import io
from fewstep.graph.selection import explain_selection
from fewstep.measure.judged_batch import JudgedBatch
from fewstep.measure.judged_run import Contender
from fewstep.measure.judges.judge import Judge
from fewstep.measure.rollouts.metrics import CEILING
from fewstep.measure.rollouts.recorded_token_run import TokenOutputs, record_token_run
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.plans.any_plan import regroup
from fewstep.plans.errors import UserError
from fewstep.runtime.sampling.calibrated_plans import read_calibrated_plan
from fewstep.runtime.sampling.loading import load
from tests.bundles import with_manifest_fields
from tests.calibration.test_calibrate import task_of


@pytest.fixture(scope="module")
def bundle(exported_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(exported_tokens, tmp_path_factory.mktemp("int8_tokens") / "bundle")


@pytest.fixture(scope="module")
def made(bundle):
    return calibrate(CalibrateOptions(bundle, trajectories=6, target=("cpu-x86",)))


def test_a_scheduler_is_asked_for_its_clip_only_where_samples_are_numbers(bundle, monkeypatch):
    asked = []
    monkeypatch.setattr("fewstep.calibration.options._scheduler_clip", lambda sampler: asked.append(sampler))
    task_of(CalibrateOptions(bundle, trajectories=6, target=("cpu-x86",)))
    assert asked == []


def test_the_embedding_and_the_head_stay_float(bundle):
    graph = io.load(load(bundle).bundle.graph(load(bundle).body.graph), root=bundle)
    assert [reason.partition(":")[0] for _, reason in explain_selection(graph)] == ["", "first or last layer"]


def test_a_body_has_groups_by_the_masked_share_and_is_judged_by_tokens(made, bundle):
    body = made.manifest.bodies["int8-cpu-x86"]
    assert body.plan == "maskgit:8" and len(body.groups) == 7  # the guided plan, where none is named
    (trial,) = body.trials
    assert trial.psnr > 25 and trial.guidance is None
    assert trial.tokens.disagreement < 0.08 and len(trial.tokens.steps) == 8
    assert all(0 <= divergence < 0.02 for _, divergence in trial.tokens.steps)
    float32, int8 = load(bundle), load(bundle, body="int8-cpu-x86")
    assert len({step.group for step in int8.compile("maskgit:8", 2.0).steps}) == 8
    x, y = (each.sample("llada:4", range(16), {"class": [1] * 16}, guidance=2.0) for each in (float32, int8))
    assert (x == y).mean() > 0.8


def test_a_course_tells_another_network_and_none_from_itself(made, bundle):
    sampler = load(bundle)
    plan = regroup(sampler.compile("maskgit:4", 2.0), (0.0,))
    seeds = SeedBatch.from_manifest(sampler.bundle.manifest, range(3))
    course = record_token_run(sampler, plan, seeds)
    assert course.groups == 2

    def own(feeds):
        return sampler.network().graph({name: value for name, value in feeds.items() if name != "group"})

    itself = course.run([own, own])
    agreement = course.agreement(itself)
    assert (agreement.disagreement, agreement.same) == (0.0, 1.0)
    assert (course.decibels(itself) == CEILING).all()

    def mirror(feeds):
        return {name: -value for name, value in own(feeds).items()}

    late = course.run([own, mirror])  # in the last steps alone
    steps = course.agreement(late).steps
    groups = [step.group for step in plan.steps]
    assert [share > 0.5 for share, _ in steps] == [group == 1 for group in groups]
    assert (course.decibels(late) < 10).all()
    bodies = {"float32": sampler, "int8": sampler.with_network_parts(graph=mirror)}
    runs = JudgedBatch(plan, (Contender("int8", {}, 3),), seeds).answer(bodies.__getitem__)
    np.testing.assert_array_equal(runs["float32"].samples, course.reference.ids)
    logs = course._pairs(late)[-1]
    expected = (np.exp(logs[1]) * (logs[1] - logs[2])).sum(1).mean()
    assert steps[-1][1] == pytest.approx(expected, abs=1e-6) and expected > 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"plan": "mdlm:8"}, "may skip evaluations.*maskgit:8"),
        ({"plan": "block_dynamic(size=6):4"}, "may skip evaluations"),
        ({"quality": "40dB"}, "--quality and --speed cannot be used for a token denoiser"),
        ({"plan": "ddim:4"}, "is for continuous samples"),
        ({"plan": "dpmpp_2m:8"}, "is for continuous samples"),
        ({"size": ("20",)}, "--size 20: this bundle samples tokens, and its plans work for one size only"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(bundle, changed, said):
    with pytest.raises(UserError, match=said):
        calibrate(CalibrateOptions(bundle, trajectories=2, target=("cpu-x86",), **changed))


def test_the_kept_plan_is_read_and_runs_where_its_name_means_another(made, bundle):
    sampler = load(bundle, body="int8-cpu-x86")
    kept = read_calibrated_plan(sampler.bundle, sampler.body)
    assert kept.name == "maskgit:8" and kept.vocabulary == 16
    assert read_settings(sampler.bundle, sampler.body).plan == "maskgit:8, guidance 2"
    assert sampler.compile() == load(bundle, "int8").compile() == kept
    assert describe_calibration_mismatch(sampler.bundle, sampler.body, sampler.compile("maskgit:8", 2.0)) is None
    said = describe_calibration_mismatch(sampler.bundle, sampler.body, sampler.compile("likeliest:8", 1.0))
    assert said is not None and "along maskgit:8, guidance 2, and runs along likeliest:8, guidance none" in said
    own = msgspec.structs.replace(kept.steps[0], noise=1.0)
    content = msgspec.json.encode(msgspec.structs.replace(kept, steps=(own, *kept.steps[1:])))
    (bundle / "own.json").write_bytes(content)
    files = {**sampler.bundle.manifest.files, "own.json": sha256(content).hexdigest()}
    other = with_manifest_fields(sampler, files=files, plans={"maskgit:8": "own.json"})
    assert other.compile().steps[0] == own
    (bundle / "own.json").unlink()


def test_verbs_show_the_agreement(made, bundle, tmp_path, capsys):
    assert main(["inspect", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert "of the most likely tokens differ at float32's states" in printed and "plan maskgit:8" in printed
    assert main(["verify", str(bundle)]) == 0
    assert main(["run", str(bundle), "--precision", "int8", "-c", "class=0", "-o", str(tmp_path / "x.npy")]) == 0
    assert "maskgit:8 in int8" in capsys.readouterr().out
    (file,) = made.manifest.plans.values()
    assert msgspec.json.decode((bundle / file).read_bytes())["vocabulary"] == 16


def test_a_judge_gets_the_tokens_of_both_and_their_conditions(bundle):
    task = task_of(CalibrateOptions(bundle, trajectories=2, target=("cpu-x86",)))
    recorded = record_judging_run(task, regroup(task.plan, {task.network: task.edges}))
    other = 1 - np.array([[0], [1]])
    outputs = TokenOutputs((), recorded.recorded.reference.ids + other)
    pairs = replace(recorded.float_pairs, samples=recorded.samples(outputs))
    own = Judge("own", "", lambda ours, exact, given: ((ours == exact).mean(axis=(1, 2)), len(given["class"])))
    judged = own.judge(pairs)
    assert (judged.score.value, judged.score.limit, judged.float32.value) == (0.5, 2.0, 1.0)
    assert pairs.samples.dtype == pairs.reference.dtype == np.int64
