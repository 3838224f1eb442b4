"""A pipeline and a network of classes that diffusers does not have. Subclasses of the pipeline change one part each."""

from typing import Any

import torch
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

CHANNELS, SIDE = 3, 8  # of x


class OwnNetwork(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, inputs: int = CHANNELS) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(inputs, 16, 3, padding=1)
        self.last = torch.nn.Conv2d(16, CHANNELS, 3, padding=1)
        self.label, self.time = torch.nn.Linear(4, 16), torch.nn.Linear(1, 16)

    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        added = self.time(timestep[:, None] / 1000) + self.label(label)
        made: Tensor = self.last(torch.nn.functional.silu(self.first(sample) + added[:, :, None, None]))
        return made


class OwnPipeline(DiffusionPipeline):
    """A pipeline of a label with guidance."""

    def __init__(self, net: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(net=net, scheduler=scheduler)

    def begin(self, noise: Tensor) -> Tensor:
        """Return the first x."""
        self.noise = noise
        return noise

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return the network's output for one branch."""
        made: Tensor = self.net(x, time.expand(len(x)).float(), label)
        return made

    def change(self, x: Tensor, index: int) -> Tensor:
        """Return x after a step."""
        return x

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any,
        num_inference_steps: int = 10,
        guidance_scale: float = 3.0,
        generator: Any = None,
        output_type: str = "pt",
    ) -> tuple[Tensor]:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        x = self.begin(randn_tensor((len(prompts), CHANNELS, SIDE, SIDE), generator=generator))
        label = torch.tensor([[sum(map(ord, each)) % n / n for n in (7, 11, 13, 17)] for each in prompts])
        self.scheduler.set_timesteps(num_inference_steps)
        for index, time in enumerate(self.scheduler.timesteps):
            with_label, without = self.predict(x, time, label), self.predict(x, time, torch.zeros_like(label))
            guided = without + guidance_scale * (with_label - without)
            x = self.change(self.scheduler.step(guided, time, x, return_dict=False)[0], index)
        return (x,)


def make(form: type[OwnPipeline] = OwnPipeline, flow: bool = True, inputs: int = CHANNELS) -> OwnPipeline:
    """Return a pipeline with random weights and a flow's scheduler, or else DDIM's."""
    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler() if flow else DDIMScheduler(clip_sample=False)
    return form(OwnNetwork(inputs), scheduler)
