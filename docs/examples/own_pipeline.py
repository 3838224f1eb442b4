"""A pipeline of a class of your own, with an own text encoder and denoiser, from a prompt to a picture.

    fewstep export docs/examples/own_pipeline.py:painter -o painter
    fewstep run painter -p "a red cat" -o cat.png
    python docs/examples/own_pipeline.py painter "a red cat"

The last command compares x of the bundle with x of the pipeline, from the same noise. Weights are random, so the
pictures are noise.
"""

import sys

import torch
from diffusers import AutoencoderKL, ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from fewstep.runtime import UserError, load
from fewstep.runtime.text import load_text_encoder

WORDS = ["_", "?", "a", "red", "cat", "on", "big", "dog"]  # "_" pads a text, and "?" is any other word
TOKENS = 6  # of a text, at most


class Net(ModelMixin, ConfigMixin):
    """The denoiser: its call takes x, the time of each sample, and the encoded text."""

    @register_to_config
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.label, self.time = nn.Linear(4, 16), nn.Linear(1, 16)

    def forward(self, sample, timestep, label):
        added = self.time(timestep[:, None] / 1000) + self.label(label)
        return self.last(nn.functional.silu(self.first(sample) + added[:, :, None, None]))


class Words(nn.Module):
    """The text encoder: of neither diffusers nor transformers."""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(len(WORDS), 4), nn.Linear(4, 4)

    def forward(self, ids, mask):
        return (self.mix(self.table(ids)) * mask[..., None]).sum(1)


class Painter(DiffusionPipeline):
    def __init__(self, tokenizer, words, net, vae, scheduler):
        super().__init__()
        self.register_modules(tokenizer=tokenizer, words=words, net=net, vae=vae, scheduler=scheduler)

    def encode(self, prompts):
        ids = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        return self.words(ids.input_ids, ids.attention_mask)

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=9, guidance_scale=3, generator=None, latents=None, output_type="pt"):
        prompts = [prompt] if isinstance(prompt, str) else prompt
        x = randn_tensor((len(prompts), 3, 8, 8), generator=generator, device=self.net.device)
        x = x if latents is None else latents
        label, nothing = self.encode(prompts), self.encode([""] * len(prompts))
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            times = time.expand(len(x)).float()
            with_label, without = self.net(x, times, label), self.net(x, times, nothing)
            x = self.scheduler.step(without + guidance_scale * (with_label - without), time, x, return_dict=False)[0]
        return x if output_type == "latent" else (self.vae.decode(x / 0.5).sample / 2 + 0.5).clamp(0, 1)


def painter(kind=Painter):
    """Return the pipeline: a function without arguments that it needs, which `fewstep export FILE:NAME` calls."""
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="_", unk_token="?", model_max_length=TOKENS)
    blocks = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    vae = AutoencoderKL(3, 3, *blocks, (16, 32), 1, latent_channels=3, norm_num_groups=8, sample_size=16)
    return kind(tokenizer, Words(), Net(), vae.eval(), DDIMScheduler(clip_sample=False))


def main(bundle, prompt):
    text = load_text_encoder(bundle)
    nothing = {"uncond": text.encode_negative([""])}
    with load(bundle) as sampler:
        noise = sampler.draws([3])(0)  # [1, *x_shape]: what x of seed 3 starts from
        x = sampler.sample("scheduler:9", [3], text.encode([prompt]), guidance=3, branches=nothing)
    own = painter()(prompt, num_inference_steps=9, latents=torch.from_numpy(noise), output_type="latent")
    print(f"the largest difference of x is {abs(x - own.numpy()).max():.1g}, of values up to {abs(x).max():.1f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/examples/own_pipeline.py BUNDLE PROMPT")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"own_pipeline: {error}")
