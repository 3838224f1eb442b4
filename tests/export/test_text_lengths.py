"""Conditions with the length of a text: one graph for all lengths, and branches of other lengths as calls of their
own."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.options.null_option import with_nulls
from fewstep.export.spec import with_spec
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.graph import GROUP
from fewstep.measure.rollouts.recorded_run import record_run
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.plans.any_plan import check_compiled
from fewstep.plans.errors import UserError
from fewstep.runtime import Sampler, load
from fewstep.runtime.arrays import Arrays
from fewstep.runtime.bundle.manifest import Condition, Size
from tests.export.denoisers import Labelled, source
from tests.refusals import refuses

SOURCE = '''
import torch
from fewstep.export import ScheduleSpec, Size, Spec
from fewstep.runtime.bundle.manifest import Condition

class Network(torch.nn.Module):
    """Pads texts to multiples of 4 with ones, and reads their sum and the padded length."""

    def forward(self, x, time, text):
        rows, more = text, (-len(text[0])) % 4
        if more > 0:
            rows = torch.cat([text, torch.ones_like(text[:, :1]).repeat(1, more, 1)], 1)
        total = rows.sum((1, 2))
        return 0.1 * x * rows.shape[1] + (total + time)[:, None, None, None]

def make():
    text = Condition("text", "text", (8, 2), "float32", follows={0: "tokens"})
    sizes = (Size("tokens", None, 2, 8),)
    return Network(), Spec("texts", (1, 2, 2), (text,), "v", ScheduleSpec("cosine"), sizes=sizes)
'''


def predict(x: np.ndarray, time: float, text: np.ndarray) -> np.ndarray:
    more = -text.shape[1] % 4
    total = text.sum((1, 2)) + 2 * more + time
    return np.asarray(0.1 * x * (text.shape[1] + more) + total[:, None, None, None])


def text_of(length: int, samples: int = 2) -> np.ndarray:
    return np.random.default_rng(length).standard_normal((samples, length, 2), np.float32)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "texts.py").write_text(SOURCE)
    export(ExportOptions(f"{folder / 'texts.py'}:make", folder / "bundle"))
    return load(folder / "bundle")


@pytest.mark.parametrize("length", [2, 3, 5, 8])
def test_a_call_has_the_length_of_its_text(sampler: Sampler, length: int) -> None:
    x, text = np.random.default_rng(0).standard_normal((2, 1, 2, 2), np.float32), text_of(length)
    np.testing.assert_allclose(sampler.evaluate(x, 1.0, {"text": text}), predict(x, 1.0, text), rtol=1e-5)


def test_branches_of_guidance_may_differ_in_length(sampler: Sampler) -> None:
    cond, away = text_of(7), text_of(3)
    x = sampler.draws([0, 1])(0)
    branches = {"uncond": {"text": away}}
    plan = sampler.compile("ddim:1", 3.0, branches=branches)
    (step,) = plan.steps
    network = sampler.step_network(plan, 2, {"text": cond}, branches)
    outputs = dict(zip(step.branches, network(0, step, x), strict=True))
    np.testing.assert_allclose(outputs["cond"], predict(x, step.time, cond), rtol=1e-5)
    np.testing.assert_allclose(outputs["uncond"], predict(x, step.time, away), rtol=1e-5)


def test_a_length_beyond_the_range_is_refused(sampler: Sampler) -> None:
    with pytest.raises(UserError, match=r"one value has the shape \[9, 2\]"):
        sampler.evaluate(np.zeros((2, 1, 2, 2), np.float32), 1.0, {"text": text_of(9)})


def test_a_run_takes_a_folder_of_texts_and_negative_ones_of_any_length(sampler: Sampler, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    lengths = ((7, 3), (5, 2), (3, 3))
    for length, away in lengths:
        np.savez(tmp_path / f"texts/{length}.npz", text=text_of(length, 1), **{"uncond.text": text_of(away, 1)})
    options = RunOptions(sampler.bundle.path, "ddim:2", conditions=tmp_path / "texts", guidance=3.0)
    made = run(replace(options, output=tmp_path / "x.npy")).x
    for seed, (length, away) in enumerate(sorted(lengths)):
        branches = {"uncond": {"text": text_of(away, 1)}}
        alone = sampler.sample("ddim:2", [seed], {"text": text_of(length, 1)}, guidance=3.0, branches=branches)
        np.testing.assert_allclose(made[seed], alone[0], rtol=1e-5)


@pytest.mark.parametrize(("length", "problem"), [(3, None), (9, "9 is not a length of tokens 2 to 8")])
def test_the_null_value_of_a_text_has_a_length_of_its_own(length: int, problem: str | None, tmp_path: Path) -> None:
    text = Condition("text", "text", (8, 2), "float32", follows={0: "tokens"})
    made = with_spec(source(Labelled()), conditions=(text,), sizes=(Size("tokens", None, 2, 8),))
    np.save(tmp_path / "null.npy", text_of(length, 1)[0])
    with nullcontext() if problem is None else pytest.raises(UserError, match=problem):
        with_nulls(made, [f"text=@{tmp_path / 'null.npy'}"])


@pytest.fixture(scope="module")
def guidance_sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """A sampler whose null value has a length of its own."""
    folder = tmp_path_factory.mktemp("guided")
    np.save(folder / "null.npy", text_of(3, 1)[0])
    (folder / "texts.py").write_text(SOURCE)
    export(ExportOptions(f"{folder / 'texts.py'}:make", folder / "bundle", null=(f"text=@{folder / 'null.npy'}",)))
    return load(folder / "bundle")


def test_a_trajectory_has_a_call_for_each_branch_of_another_length(guidance_sampler: Sampler) -> None:
    plan = check_compiled(guidance_sampler.compile("ddim:2", 3.0))
    calls = list(roll_out(guidance_sampler, plan, range(2), conditions={"text": text_of(7)}))
    assert [call.state.index for call in calls] == [0, 0, 1, 1]
    assert [call.is_last for call in calls] == [False, False, False, True]


def test_branches_of_other_lengths_are_recorded_for_bodies(guidance_sampler: Sampler) -> None:
    plan = check_compiled(guidance_sampler.compile("ddim:2", 3.0))
    recorded = record_run(guidance_sampler, plan, range(2), {"text": text_of(7)})
    graph = guidance_sampler.network().graph

    def run_float(feeds: Arrays) -> dict[str, np.ndarray]:
        return dict(graph({name: value for name, value in feeds.items() if name != GROUP}))

    np.testing.assert_array_equal(recorded.final_samples(recorded.run([run_float])), recorded.sample)
    expected = guidance_sampler.sample(plan, range(2), {"text": text_of(7)})
    np.testing.assert_array_equal(recorded.sample, expected)


def test_a_baked_run_refuses_a_null_value_of_another_length(guidance_sampler: Sampler, tmp_path: Path) -> None:
    with refuses("the null value of 'text' has a length of its own", "bake with --guidance 1"):
        bake(BakeOptions(guidance_sampler.bundle.path, "ddim:2", tmp_path / "baked.onnx", guidance=2.0))
