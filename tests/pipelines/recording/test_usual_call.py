"""The usual call of a pipeline, chosen for a stand-in."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.stand_ins import OutputShapes
from fewstep.pipelines.recording.usual_call import record_usual_call
from fewstep.plans.errors import UserError

diffusers = pytest.importorskip("diffusers")


class Net(nn.Module):
    """Reads x, a time and a text [B, length]."""

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return x * text.mean()


class Pipe:
    """Has guidance only above a weight of 1. Texts are as long as their prompts, cut to 30, and padded in a batch."""

    device = _execution_device = torch.device("cpu")

    def __init__(self) -> None:
        self.scheduler, self.net = diffusers.FlowMatchEulerDiscreteScheduler(), Net()

    def __call__(
        self, prompt: Any, num_inference_steps: int = 3, guidance_scale: float = 1.0, generator: Any = None
    ) -> None:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        length = min(30, max(map(len, prompts)))
        text = torch.zeros(len(prompts), length)
        x = torch.randn(len(prompts), 4, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            made = self.net(x, time.expand(len(x)), text)
            if guidance_scale > 1:
                other = self.net(x, time.expand(len(x)), 0 * text)
                made = other + guidance_scale * (made - other)
            x = self.scheduler.step(made, time, x, return_dict=False)[0]


def choose(**given: Any) -> tuple[Any, Any]:
    return record_usual_call(BuiltPipeline(Pipe(), {"net": OutputShapes("net", Net)}), given)


class PipeWithoutLatents(Pipe):
    """Refuses to return latents, as Marigold does."""

    def __call__(self, prompt: Any, output_type: str = "np", generator: Any = None) -> None:
        if output_type != "np":
            raise ValueError(f"`output_type` is {output_type}")
        super().__call__(prompt, generator=generator)


def test_a_pipeline_that_returns_no_latents_gets_its_default_output() -> None:
    built = BuiltPipeline(PipeWithoutLatents(), {"net": OutputShapes("net", Net)})
    assert record_usual_call(built, {})[0].usual["output_type"] == "np"


def test_an_output_type_that_the_user_chose_is_kept() -> None:
    built = BuiltPipeline(PipeWithoutLatents(), {"net": OutputShapes("net", Net)})
    with pytest.raises(UserError, match="`output_type` is pil"):
        record_usual_call(built, {"output_type": "pil"})


def test_guidance_that_is_off_is_switched_on() -> None:
    settings, first = choose()
    assert settings.forms.guided_by == ("guidance_scale", 1.5) and len(first.steps[0].calls) == 2


def test_guidance_that_the_user_switched_off_stays_off() -> None:
    settings, first = choose(guidance_scale=1.0)
    assert settings.forms.guided_by is None and len(first.steps[0].calls) == 1


def test_a_prompt_whose_length_the_network_sees_is_padded_to_the_greatest_length() -> None:
    settings, first = choose()
    assert settings.forms.is_padded and first.steps[0].calls[0].leaves["['text']"].shape == (2, 30)


def test_a_prompt_that_the_user_chose_is_not_padded() -> None:
    assert not choose(prompt="a cat")[0].forms.is_padded
