"""Steps of a scheduler that no rule of fewstep gives: stored as recorded, for the recorded numbers of steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewstep.runtime
from fewstep.cli.main import main
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.pipelines.relations.measured_schedule import check_prediction_of_config
from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.configs.recorded import RecordedStep, RecordedSteps, read_steps
from fewstep.plans.configs.recorded_steps import compile_recorded_steps
from fewstep.plans.errors import UserError
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.pipelines.recording.test_live import FILE
from tests.refusals import refuses

pytestmark = pytest.mark.slow

pytest.importorskip("diffusers")

SCHEDULERS = """
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor

class Base(FlowMatchEulerDiscreteScheduler):
    def step(self, model_output, timestep, sample, generator=None, return_dict=False):
        if self.step_index is None:
            self._init_step_index(timestep)
        s, t = self.sigmas[self.step_index], self.sigmas[self.step_index + 1]
        after = self.follow(model_output, sample, s, t, generator)
        self._step_index += 1
        return (after,)

class Plain(Base):
    "Euler's method over squared sigmas: no rule of fewstep has these times."
    def set_timesteps(self, num_inference_steps, device=None):
        super().set_timesteps(num_inference_steps)
        self.sigmas = self.sigmas**2
        self.timesteps = self.sigmas[:-1] * 1000
    def follow(self, o, x, s, t, generator):
        return x + (t - s) * o

class TwoStep(Base):
    "Adams and Bashforth: reads the output of the step before."
    def follow(self, o, x, s, t, generator):
        before, self.before = getattr(self, "before", None) if self.step_index else None, o
        return x + (t - s) * (o if before is None or t == 0 else 1.5 * o - 0.5 * before)

class Noisy(Base):
    "Draws noise in each step, and uses none in the last."
    def follow(self, o, x, s, t, generator):
        z = randn_tensor(x.shape, generator=generator)
        return (1 - t) * (x - s * o) + t * (0.8 * (x + (1 - s) * o) + 0.6 * z)

class Returning(Base):
    "Forgets x in its first step, and reads it again later."
    def follow(self, o, x, s, t, generator):
        if self.step_index == 0:
            self.start = x
            return o
        return (1 - t) * (x - s * o) + t * self.start

class Diffusing(DDIMScheduler):
    "A class of diffusers under another name: its schedule follows from its alphas, its prediction from its steps."

class Clipping(Base):
    def follow(self, o, x, s, t, generator):
        x0 = (x - s * o).clamp(-1, 1)
        return x0 + t / s * (x - x0)

class Unseen(Base):
    "Draws noise that a recording does not see."
    def follow(self, o, x, s, t, generator):
        return x + (t - s) * o + t * torch.randn(x.shape, generator=generator)

class Measuring(Base):
    "Its weights depend on the data."
    def follow(self, o, x, s, t, generator):
        return x + (t - s) * o / o.std()

class WithoutLevels(Plain):
    scale_noise = property()

def make_with(scheduler):
    torch.manual_seed(0)
    return Mine(Net(), scheduler)

def plain(): return make_with(Plain())
def two_step(): return make_with(TwoStep())
def noisy(): return make_with(Noisy())
def returning(): return make_with(Returning())
def diffusing(): return make_with(Diffusing(clip_sample=False, prediction_type="v_prediction"))
def clipping(): return make_with(Clipping())
def unseen(): return make_with(Unseen())
def measuring(): return make_with(Measuring())
def without_levels(): return make_with(WithoutLevels())
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FILE + SCHEDULERS)
    return tmp_path / "mine.py"


def store_steps(scheduler: Any) -> Any:
    found = read_steps(scheduler)
    assert found is not None
    return found


@pytest.mark.parametrize("name, form, rows", [("plain", "Plain", 1), ("two_step", "TwoStep", 2), ("noisy", "Noisy", 1)])
def test_steps_of_an_unknown_class_are_stored(
    file: Path, name: str, form: str, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = load_source(f"{file}:{name}")
    assert f"the bundle stores the steps of {form} as recorded, since" in caplog.text
    assert "It has scheduler:8 and scheduler:3" in caplog.text
    assert "samples of Mine agree within" in caplog.text
    assert (source.spec.prediction, source.spec.schedule.kind, source.spec.schedule.timesteps) == ("flow", "flow", 1000)
    assert source.scheduler is not None
    facts = DenoiserFacts(source.spec.schedule, source.spec.prediction)
    plan = compile_recorded_steps(store_steps(source.scheduler), 8, facts, source.scheduler)
    assert (len(plan.steps), plan.rows, plan.is_stochastic) == (8, rows, name == "noisy")


def test_schedule_and_prediction_of_an_unknown_class_are_measured(file: Path) -> None:
    spec = load_source(f"{file}:diffusing").spec
    assert (spec.prediction, spec.schedule.kind, len(spec.schedule.betas)) == ("v", "betas", 1000)
    np.testing.assert_allclose(spec.schedule.betas, np.linspace(1e-4, 0.02, 1000), atol=1e-6)


def test_numbers_are_those_of_the_scheduler(file: Path) -> None:
    """Squared sigmas of 1, 0.5005, 0.001 and 0, with Euler's weights."""
    found = store_steps(load_source(f"{file}:plain").scheduler)[3]
    sigmas = np.array([1, 0.5005, 0.001, 0]) ** 2
    np.testing.assert_allclose([step.time for step in found.steps], 1000 * sigmas[:-1], rtol=1e-5)
    np.testing.assert_allclose([step.x for step in found.steps], 1, atol=1e-5)
    np.testing.assert_allclose([step.outputs for step in found.steps], np.diff(sigmas)[:, None], atol=1e-5)
    assert found.start == pytest.approx(1) and found.draws == ()


def test_outputs_of_two_steps(file: Path) -> None:
    """Adams-Bashforth weights of 1.5 and -0.5, between a first and a last step of Euler's method."""
    found = store_steps(load_source(f"{file}:two_step").scheduler)[3]
    first, second, third = found.steps
    assert (len(first.outputs), len(second.outputs), len(third.outputs)) == (1, 2, 1)
    np.testing.assert_allclose(second.outputs[1] / second.outputs[0], -1 / 3, rtol=1e-4)


def test_the_first_x_of_a_later_step(file: Path) -> None:
    found = store_steps(load_source(f"{file}:returning").scheduler)[3]
    first, second, third = found.steps
    assert (first.first, third.first) == (0.0, 0.0)
    assert second.first == pytest.approx(third.time / 1000, rel=1e-4)


def test_noise_of_the_steps(file: Path) -> None:
    """0.6 t in every step but the last, whose draw is not read."""
    found = store_steps(load_source(f"{file}:noisy").scheduler)[3]
    ends = [step.time / 1000 for step in found.steps[1:]]
    assert found.draws == (0, 1)
    np.testing.assert_allclose(
        [dict(step.noise)[n] for n, step in enumerate(found.steps[:2])], np.multiply(0.6, ends), rtol=1e-4
    )


@pytest.mark.parametrize(
    "name, says",
    [
        ("clipping", "step 1 of Clipping is not a sum of x, outputs and its noise with fixed weights: it may clip"),
        ("unseen", "step 1 of Unseen is not a sum of x, outputs and its noise with fixed weights"),
        ("measuring", "step 1 of Measuring is not a sum of x, outputs and its noise with fixed weights"),
        ("without_levels", "WithoutLevels has no scale_noise or add_noise that shows its noise schedule"),
    ],
)
def test_what_is_no_sum_is_refused(file: Path, name: str, says: str) -> None:
    with pytest.raises(UserError, match=f"unknown scheduler class '.*{says}"):
        load_source(f"{file}:{name}")


def test_times_that_no_rule_describes_are_stored(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The class is known, but the pipeline passes its own times."""
    times = "timesteps=[900 * (n + 1) // num_inference_steps for n in range(num_inference_steps)][::-1]"
    file.write_text(
        FILE.replace("set_timesteps(num_inference_steps)", f"set_timesteps({times})").replace("DDIM", "DDPM")
    )
    source = load_source(f"{file}:make")
    assert "Mine passes timesteps to its scheduler. It has scheduler:8 and scheduler:3" in caplog.text
    found = store_steps(source.scheduler)
    assert [step.time for step in found[3].steps] == [900, 600, 300] and set(found) == {3, 8}


def test_call_sets_the_number_of_steps(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = load_source(f"{file}:plain", call=("num_inference_steps=5",))
    assert set(store_steps(source.scheduler)) == {5, 8}
    assert "It has scheduler:8 and scheduler:5" in caplog.text


def test_known_rules_store_no_steps(file: Path) -> None:
    scheduler = load_source(f"{file}:make").scheduler
    assert scheduler is not None and "steps" not in scheduler[RECORDED]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    (folder / "mine.py").write_text(FILE + SCHEDULERS)
    export(ExportOptions(f"{folder / 'mine.py'}:two_step", folder / "bundle", verify="quick"))
    return folder / "bundle"


def test_inspect_names_the_stored_steps(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle)]) == 0
    assert "scheduler: TwoStep, with recorded steps: scheduler:3, scheduler:8" in capsys.readouterr().out


def test_another_number_of_steps_is_refused(bundle: Path) -> None:
    says = "has the recorded steps of its scheduler, TwoStep, as scheduler:3 and scheduler:8 only"
    with fewstep.runtime.load(bundle) as sampler, pytest.raises(UserError, match=says) as raised:
        sampler.compile("scheduler:20")
    assert "export again with --call num_inference_steps=20" in raised.value.fix


def test_an_image_is_refused(bundle: Path) -> None:
    with fewstep.runtime.load(bundle) as sampler, pytest.raises(UserError, match="is recorded from noise"):
        sampler.compile("scheduler:8", strength=0.5)


def test_guidance_is_free(bundle: Path) -> None:
    """The recording guides by 3. The stored steps run with any weight, shown with 1 and 3."""
    with fewstep.runtime.load(bundle) as sampler:
        plans = [sampler.compile("scheduler:3", weight) for weight in (None, 3.0)]
        x = sampler.sample(plans[1], [0], {"label": np.ones((1, 4), np.float32)})
    assert [plan.steps[0].branches for plan in plans] == [("cond",), ("cond", "uncond")]
    assert np.isfinite(x).all()


def test_a_run_without_a_plan_takes_a_stored_one(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "label.npy", np.ones((2, 4), np.float32))
    assert (
        main(
            [
                "run",
                str(bundle),
                "--condition",
                f"label=@{tmp_path / 'label.npy'}",
                "-n",
                "2",
                "-o",
                str(tmp_path / "x.npy"),
            ]
        )
        == 0
    )
    assert "2 samples of scheduler:8" in "".join(capsys.readouterr())


HALVES = RecordedSteps(1.0, (RecordedStep(500.0, 1.0, (-0.5,)),))  # x0 = x - sigma v at sigma 0.5


def test_the_prediction_of_a_config_that_the_last_step_shows_is_accepted() -> None:
    assert check_prediction_of_config("Known", (ScheduleSpec("flow"), "flow"), HALVES)


def test_a_config_with_another_prediction_than_the_last_step_shows_is_refused() -> None:
    with refuses(("Known says that its network predicts epsilon", "flow")):
        check_prediction_of_config("Known", (ScheduleSpec("flow"), "epsilon"), HALVES)


def test_a_last_step_that_ends_at_no_x0_shows_no_prediction() -> None:
    steps = RecordedSteps(1.0, (RecordedStep(500.0, 1.0, (-0.3,)),))
    assert not check_prediction_of_config("Known", (ScheduleSpec("flow"), "flow"), steps)
