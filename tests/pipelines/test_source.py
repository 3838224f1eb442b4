"""What export says about a recorded network that is too large to run, about missing weights, and about a network that
predicts a variance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from fewstep.export.load_source import load_source
from fewstep.pipelines import source
from fewstep.pipelines.recording.settings import CallSettings
from fewstep.pipelines.recording.stand_ins import LengthError
from fewstep.pipelines.source import load_pipeline, warn_of_missing_comparison
from fewstep.plans.errors import UserError
from tests.families.tiny import stable_diffusion_folder, stable_diffusion_unet
from tests.own_pipeline import CHANNELS, SIDE, OwnPipeline, make
from tests.refusals import refuses

PADDING = "label: it is not checked either whether the network ignores the padding of shorter texts"


def test_padding_that_is_not_checked_is_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_missing_comparison("label", "Pipe", CallSettings({}, texts=({"prompt": "a"},)))
    assert PADDING in caplog.messages


def test_a_pipeline_without_padding_has_no_such_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_missing_comparison("label", "Pipe", CallSettings({}))
    (message,) = caplog.messages
    assert message.startswith("label: the network gets the arguments that Pipe passes; it is too large")


@pytest.mark.parametrize("reads_padding", [True, False])
def test_warnings_are_those_of_the_attempt_that_is_exported(
    reads_padding: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As for Kandinsky 5, whose bundle takes prompts only if they are not padded."""

    def load(*_: object, pads_texts: bool = True) -> str:
        source.LOG.warning("padded: %s", pads_texts)
        if pads_texts and reads_padding:
            raise LengthError("it reads the padding")
        return "a source"

    monkeypatch.setattr(source, "_load_in_memory", lambda *given: load(pads_texts=given[-1]))
    with caplog.at_level("WARNING", logger="fewstep"):  # another test may have left a lower one
        assert str(load_pipeline(None, "mine", "0", {})) == "a source"
    assert caplog.messages == [f"padded: {not reads_padding}"]


def test_warnings_of_an_attempt_that_fails_are_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(*_: object) -> None:
        source.LOG.warning("a reason")
        raise UserError("another failure", "fix it")

    monkeypatch.setattr(source, "_load_in_memory", load)
    with pytest.raises(UserError, match="another failure"):
        load_pipeline(None, "mine", "0", {})
    assert caplog.messages == ["a reason"]


class Learned(OwnPipeline):
    """Guides the first half of the network's output, and passes the other half of a branch as a variance."""

    variance = 0  # the branch: with the label, or without it

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any,
        num_inference_steps: int = 10,
        guidance_scale: float = 3.0,
        generator: Any = None,
        output_type: str = "pt",
    ) -> tuple[Tensor]:
        x = randn_tensor((1, CHANNELS, SIDE, SIDE), generator=generator)
        label = torch.tensor([[sum(map(ord, prompt)) % n / n for n in (7, 11, 13, 17)]])
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            outputs = [self.predict(x, time, each).chunk(2, dim=1) for each in (label, torch.zeros_like(label))]
            guided = outputs[1][0] + guidance_scale * (outputs[0][0] - outputs[1][0])
            both = torch.cat([guided, outputs[self.variance][1]], dim=1)
            x = self.scheduler.step(both, time, x, generator=generator, return_dict=False)[0]
        return (x,)


class LearnedWithoutLabel(Learned):
    variance = 1


class CutsVariance(DDIMScheduler):
    """A scheduler without rules, which ignores the variance."""

    def __init__(self) -> None:
        super().__init__(clip_sample=False)
        self.register_to_config(variance_type="learned_range")

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **others: Any) -> Any:  # type: ignore[override]
        return super().step(model_output[:, :CHANNELS], timestep, sample, return_dict=False)


def make_learned(form: type[OwnPipeline], scheduler: SchedulerMixin | None = None) -> OwnPipeline:
    made = make(form, flow=False)
    made.net.last = torch.nn.Conv2d(16, 2 * CHANNELS, 3, padding=1)
    made.register_modules(scheduler=scheduler or DDPMScheduler(variance_type="learned_range"))
    return made


def test_a_learned_variance_is_a_second_output(caplog: pytest.LogCaptureFixture) -> None:
    assert load_pipeline(make_learned(Learned), "mine", "0", {}).spec.heads == 2
    assert "mine: samples of Learned agree within" in caplog.text


def test_the_variance_of_another_branch_is_refused() -> None:
    with pytest.raises(UserError, match="a variance that is not the second half of its conditional output"):
        load_pipeline(make_learned(LearnedWithoutLabel), "mine", "0", {})


def test_steps_are_stored_for_a_network_of_two_outputs(caplog: pytest.LogCaptureFixture) -> None:
    assert load_pipeline(make_learned(Learned, CutsVariance()), "mine", "0", {}).spec.heads == 2
    assert "mine: the bundle stores the steps of CutsVariance as recorded" in caplog.text
    assert "mine: samples of Learned agree within" in caplog.text


def test_a_variance_that_the_stored_config_does_not_name_is_no_output(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder's scheduler, only that of DDPM is stored with its variance. Others ignore it."""
    record = source.record_pipeline

    def record_without(built: Any, other: Any, given: Any, scheduler: Any, *more: Any) -> Any:
        kept = {name: scheduler[name] for name in scheduler if name != "variance_type"}
        return record(built, other, given, kept, *more)

    monkeypatch.setattr(source, "record_pipeline", record_without)
    made = make_learned(Learned, DPMSolverMultistepScheduler(variance_type="learned_range"))
    assert load_pipeline(made, "mine", "0", {}).spec.heads == 1
    assert "mine: samples of Learned agree within" in caplog.text


def folder_with_weights(home: Path, component: str) -> tuple[Path, Path]:
    """Return a folder of Stable Diffusion, and the file with the weights of a component."""
    folder = Path(stable_diffusion_folder(home, stable_diffusion_unet()))
    (weights,) = (folder / component).glob("*.safetensors")
    return folder, weights


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_component_that_is_cut_short_is_refused_before_it_is_recorded(
    component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's bundle returned x."""
    monkeypatch.delattr(source, "record_pipeline")
    folder, weights = folder_with_weights(tmp_path, component)
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with refuses(f"{weights} is not a safetensors file", "copy the folder again"):
        load_source(str(folder))


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_component_without_weights_is_refused_before_it_is_recorded(
    component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its decoder the bundle would return x, and without its text encoder it would take no prompts."""
    monkeypatch.delattr(source, "record_pipeline")
    folder, weights = folder_with_weights(tmp_path, component)
    weights.unlink()
    with refuses(f"{component} has no {weights.name}", "write it with save_pretrained"):
        load_source(str(folder))
