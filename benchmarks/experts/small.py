"""A third-size U-Net for the noisy side of the shipped Fashion-MNIST denoiser, which taught it.

    python -m benchmarks.train experts/small --work DIR --minutes 40
    fewstep export fashion_mnist -o bundle --expert small=benchmarks/experts/small.py:make@-0.5

Networks for high noise may be smaller, since little detail is decided there (A-SDM, Yang et al. 2023, eDiff-I,
Balaji et al. 2022). This one learns the large network's output, as step by step distillation does, at timesteps from
`FIRST` on: no sample of either is needed, only noised data.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.train import TIMESTEPS, cosine_alphas_cumprod
from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE, NULL_CLASS, UNet
from fewstep.models.fashion_mnist.unet import load as large
from fewstep.models.training import Loss, Recipe, drop_labels
from fewstep.models.weights import load_weights

CHANNELS = (32, 80, 80)  # 206 million MACs for a sample; the large network has 598 million
FIRST = 400  # lambda 0.33 of the cosine schedule; the expert runs timesteps above it
RECIPE = Recipe(steps=900, batch=32, rate=1e-3, seed=0)  # 10 minutes of processor time
LABEL = Condition("class", input="label", null=NULL_CLASS, low=0, high=len(CLASSES) - 1, labels=CLASSES)
SPEC = Spec("small", IMAGE_SHAPE, (LABEL,), "v", ScheduleSpec("cosine", TIMESTEPS))


def network() -> UNet:
    return UNet(CHANNELS)


def teaching(folder: Path = data.DEBIAN_FOLDER) -> Loss:
    """The mean square of the difference to the large network, on noised training images."""
    raw_images, raw_labels = data.read(folder)
    images, labels = torch.from_numpy(raw_images.copy())[:, None], torch.from_numpy(raw_labels.copy()).long()
    alphas_cumprod, teacher = cosine_alphas_cumprod().float(), large().to(memory_format=torch.channels_last)

    def loss(student: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (RECIPE.batch,), generator=generator)
        times = torch.randint(FIRST, TIMESTEPS, (RECIPE.batch,), generator=generator)
        label = drop_labels(labels[rows], NULL_CLASS, generator)
        noise = torch.randn(RECIPE.batch, *IMAGE_SHAPE, generator=generator)
        alpha_bar = alphas_cumprod[times][:, None, None, None]
        x = alpha_bar.sqrt() * (images[rows].float() / 127.5 - 1) + (1 - alpha_bar).sqrt() * noise
        with torch.no_grad():
            answer = teacher(x, times, label).float()
        return (student(x, times, label).float() - answer).square().mean()

    return loss


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Of training images alone."""
    return network(), teaching(folder or data.DEBIAN_FOLDER)


def make() -> tuple[nn.Module, Spec]:
    return load_weights(network(), Path(__file__).with_suffix(".safetensors")), SPEC
