"""A baked token plan has the tokens of the executor, in one Loop that plain onnxruntime runs."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.main import main
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.bake.bake import assemble_run, bake
from fewstep.graph.bake.draws import CHANCES, draw_input
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.split_run import split_run
from fewstep.graph.bake.seal_check import is_whole
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg
from fewstep.plans.tokens.plan import TokenPlan
from fewstep.report.baked_integrity import verify_baked
from fewstep.runtime.sampling.loading import load
from tests.export.networks import token_denoiser
from tests.export.networks.token_denoiser import IDS, MASK
from tests.graph.bake.run_baked import open_baked, run_file

COUNT, LABELS = 5, [0, 2, 1, 1, 0]


@pytest.fixture(scope="module")
def bundle(exported_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(exported_tokens, tmp_path_factory.mktemp("baked_tokens") / "bundle")
    calibrate(CalibrateOptions(path, trajectories=4, target=("cpu-x86",)))
    return path


def known_tokens() -> np.ndarray:
    """One of five samples has no known token, one has only known ones."""
    ids = np.random.default_rng(0).integers(0, IDS, (COUNT, 2, 12))
    shares = np.array([1.0, 0.4, 0.8, 0.0, 0.6])[:, None, None]
    return np.where(np.random.default_rng(1).random(ids.shape) < shares, -1, ids)


def tokens(file: Path, ids: np.ndarray, seeds: range = range(COUNT), labels: list[int] = LABELS) -> np.ndarray:
    """Return the file's result for known tokens, with chances that a program draws from seeds."""
    return run_file(file, seeds, **{"ids": ids, "class": labels[: len(seeds)]})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    "plan",
    [
        "maskgit:4",
        "llada:4",
        "first_hitting:3",
        "dream_margin:3",
        "dream_entropy(temperature=1):4",
        "omnivoice:3",
        "mdlm:6",
        "remdm(cap=0.3):6",
        "block_dynamic(size=6, threshold=0.2):4",
        "block_entropy(size=4, bound=3):6",
    ],
)
def test_tokens_are_those_of_the_executor(bundle: Path, tmp_path: Path, plan: str, precision: str) -> None:
    baked, _ = bake(BakeOptions(bundle, plan, tmp_path / "t.onnx", precision, guidance=2.0))
    assert baked.vocabulary is not None and baked.sample is not None
    sampler = load(bundle, precision)
    ids = known_tokens()
    expected = sampler.sample(plan, range(COUNT), {"class": LABELS}, 2.0, given={"ids": ids})
    np.testing.assert_array_equal(tokens(tmp_path / "t.onnx", ids), expected)
    alone = tokens(tmp_path / "t.onnx", ids[:1], range(1))
    np.testing.assert_array_equal(alone, sampler.sample(plan, [0], {"class": [0]}, 2.0, given={"ids": ids[:1]}))


@pytest.mark.parametrize("unroll", [False, True])
def test_a_plan_of_several_rules_and_uneven_branches_is_one_file(bundle: Path, tmp_path: Path, unroll: bool) -> None:
    sampler = load(bundle)
    plan = sampler.compile("maskgit:4", Cfg(3.0, interval=(-1.0, 0.5)))
    replace = msgspec.structs.replace
    second = replace(plan.steps[1], temperature=0.0, score="margin")
    mixed = replace(plan, name="own", steps=(plan.steps[0], second, *plan.steps[2:]))
    assert isinstance(mixed, TokenPlan) and len({len(step.branches) for step in mixed.steps}) == 2
    (tmp_path / "own.json").write_bytes(msgspec.json.encode(mixed))
    baked, _ = bake(BakeOptions(bundle, str(tmp_path / "own.json"), tmp_path / "t.onnx", batch=COUNT, unroll=unroll))
    assert baked.inputs[0].shape == (COUNT, 2, 12) and baked.draws == (0, 1, 4, 6, 7, 9)
    expected = sampler.sample(mixed, range(COUNT), {"class": LABELS}, given={"ids": known_tokens()})
    np.testing.assert_array_equal(tokens(tmp_path / "t.onnx", known_tokens()), expected)


def test_a_plan_s_file_bakes_its_own_length(bundle: Path, tmp_path: Path) -> None:
    sampler, ids = load(bundle, "int8"), np.full((COUNT, 2, 20), -1)
    plan = sampler.with_options(length=20).compile("maskgit:3", 2.0)
    (tmp_path / "own.json").write_bytes(msgspec.json.encode(plan))
    baked, _ = bake(BakeOptions(bundle, str(tmp_path / "own.json"), tmp_path / "t.onnx", "int8"))
    assert baked.inputs[0].shape == ("batch", 2, 20) and baked.sample is not None
    expected = sampler.with_options(length=20).sample(plan, range(COUNT), {"class": LABELS})
    np.testing.assert_array_equal(tokens(tmp_path / "t.onnx", ids), expected)


def test_the_file_has_plain_operations_and_a_loop(bundle: Path, tmp_path: Path) -> None:
    bake(BakeOptions(bundle, "maskgit:4", tmp_path / "t.onnx"))
    (loop,) = (node for node in onnx.load(tmp_path / "t.onnx").graph.node if node.op_type == "Loop")
    inner = {node.op_type for node in loop.attribute[0].g.node}
    assert {"TopK", "Where", "ScatterElements"} <= inner
    onnx.checker.check_model(onnx.load(tmp_path / "t.onnx"))
    run, _ = assemble_run(BakeOptions(bundle, "maskgit:4", tmp_path / "t.onnx"))
    (steps,) = split_run(run).steps  # for a program that keeps the loop
    assert steps.count == 4 and len(steps.state) == 1


def test_the_test_vector_is_verified_and_another_body_is_distinguished(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.onnx"
    baked, _ = bake(BakeOptions(bundle, "maskgit:4", file, "int8", guidance=2.0))
    assert is_whole(file) and verify_baked(file).sample.startswith("its test vector is bitwise")
    assert baked.sample is not None and baked.sample.inputs == {"ids": -1.0, "class": 0.0}
    assert main(["verify", str(file)]) == 0
    other = msgspec.structs.replace(baked.sample, sha256="", values=tuple((v + 1) % IDS for v in baked.sample.values))
    wrong = msgspec.structs.replace(verify_baked(file), holds=msgspec.structs.replace(baked, sample=other))
    from fewstep.report.baked_integrity import _run_test_vector

    (damage,) = _run_test_vector(wrong, file, wrong.holds).damages
    assert "0% of the tokens equal the sample" in damage.what and "50% or more" in damage.what


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hold": "clean"}, "'maskgit:4' is for tokens, .* known tokens are the file's input 'ids'"),
        ({"clip": 1.0}, "a token plan takes no shaping"),
        ({"plan": "dpmpp_2m:4"}, "is for continuous samples"),
    ],
)
def test_what_cannot_be_is_one_line(bundle: Path, tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        bake(BakeOptions(**{"bundle": bundle, "plan": "maskgit:4", "output": tmp_path / "t.onnx", **change}))


def test_ids_and_open_positions_are_checked_in_the_file(bundle: Path, tmp_path: Path) -> None:
    bake(BakeOptions(bundle, "maskgit:4", tmp_path / "t.onnx"))
    for wrong in (MASK, -2):
        with pytest.raises(Exception, match="ids_is_from_-1_to_15"):
            tokens(tmp_path / "t.onnx", np.full((1, 2, 12), wrong), range(1))
    plan = load(bundle).compile("mdlm:3")
    short = msgspec.structs.replace(plan, steps=plan.steps[:2])
    (tmp_path / "short.json").write_bytes(msgspec.json.encode(short))
    bake(BakeOptions(bundle, str(tmp_path / "short.json"), tmp_path / "s.onnx"))
    with pytest.raises(Exception, match="every_position_is_revealed"):
        tokens(tmp_path / "s.onnx", np.full((1, 2, 12), -1), range(1))


GAINED = """
import torch
from torch import nn
from fewstep.export import Condition, Vocabulary
from tests.export.networks.token_denoiser import Coded, spec

class Gained(nn.Module):
    def __init__(self):
        super().__init__()
        self.coded = Coded()

    def forward(self, ids, time, gain):
        return self.coded(ids, time, torch.zeros_like(gain).long()) * gain[:, None, None, None]

def make():
    gain = Condition("gain", "gain", dtype="float32", typical=(1.0, 1.0))
    return Gained(), spec(conditions=(gain,), vocabulary=Vocabulary(16, 3))
"""


@pytest.mark.slow
def test_what_makes_no_tokens_is_refused_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "gained.py").write_text(GAINED)
    export(ExportOptions(f"{tmp_path / 'gained.py'}:make", tmp_path / "gained", verify="quick"))
    bake(BakeOptions(tmp_path / "gained", "maskgit:3", tmp_path / "t.onnx"))
    session, baked = open_baked(tmp_path / "t.onnx")
    chances = draw_input(CHANCES, baked.draws, [0], (2, 12))
    right = {"ids": np.full((1, 2, 12), -1), "draws": chances, "gain": np.ones(1, np.float32)}
    expected = load(tmp_path / "gained").sample("maskgit:3", [0], {"gain": right["gain"]})
    np.testing.assert_array_equal(session.run(None, right)[0], expected)
    wrong = {
        "ids_is_from_-1_to_15": {"ids": np.full((1, 2, 12), 3)},  # the mask id, inside the vocabulary
        "draws_are_between_0_and_1": {"draws": np.where(chances == chances.max(), 1.0, chances)},
        "logits_are_finite": {"gain": np.full(1, np.nan, np.float32)},
    }
    for said, change in wrong.items():
        with pytest.raises(Exception, match=said):
            session.run(None, right | change)


@pytest.mark.slow
def test_a_network_with_a_time_bakes_and_first_hitting_is_refused(tmp_path: Path) -> None:
    export(ExportOptions(f"{token_denoiser.__file__}:time_aware", tmp_path / "timed", verify="quick"))
    options = BakeOptions(tmp_path / "timed", "likeliest:4", tmp_path / "t.onnx")
    bake(options)
    expected = load(tmp_path / "timed").sample("likeliest:4", range(COUNT), {"class": LABELS})
    np.testing.assert_array_equal(tokens(tmp_path / "t.onnx", np.full((COUNT, 2, 12), -1)), expected)
    with pytest.raises(UserError, match="first_hitting:4.*takes a time"):
        bake(BakeOptions(tmp_path / "timed", "first_hitting:4", options.output))
