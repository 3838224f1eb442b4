"""Train a small pipeline from captions to pictures: `python -m lab.trained_pipeline FOLDER --data DATA`.

It has the parts of Stable Diffusion: a CLIP text encoder with a tokenizer of its captions, a U-Net with cross-attention
on latents, and an autoencoder. The data are the captioned clothes of `zoo/captions.py` with a margin. The autoencoder
is trained first. FOLDER/pipeline is a folder of diffusers. The same command continues after an interruption, as those
of `lab.train` do.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.options import parser_of
from fewstep.models.training import Loss, Recipe, train
from fewstep.models.weights import load_weights

sys.path.append(str(Path(__file__).parents[1] / "zoo"))  # its recipes import each other by their names

import captions
from denoising import Draw

MARGIN = 2  # pixels around a canvas, so that its sides are multiples of 8
LENGTH, WIDTH = 16, 128  # tokens of a text, and features of each
NOISE = 0.1  # deviation of the noise on latents of an autoencoder without a posterior, in training
KL, MOMENTS = 1e-3, 0.1  # weights of the posterior's divergence, and of how far latents are from mean 0, deviation 1
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # of Stable Diffusion
Autoencoder = AutoencoderKL | AutoencoderTiny


@dataclass(frozen=True)
class Size:
    """A pipeline: its autoencoder, the recipe of that, the channels of the U-Net, what it predicts, and its recipe."""

    autoencoder: Callable[[], Autoencoder]
    reconstruction: Recipe
    channels: tuple[int, int]
    prediction: str
    denoising: Recipe


def _kl() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=16,
        scaling_factor=1.0,
        sample_size=captions.SIZE + 2 * MARGIN,
    )


def _tiny() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
        latent_channels=8,
        scaling_factor=1.0,
    )


SIZES = {
    "kl": Size(_kl, Recipe(600, 16, 2e-3, 0), (48, 96), "v_prediction", Recipe(1_600, 16, 1e-3, 0)),
    "tiny": Size(_tiny, Recipe(600, 32, 2e-3, 1), (64, 128), "epsilon", Recipe(1_200, 16, 1e-3, 1)),
}


def caption_texts(count: int, seed: int) -> list[str]:
    """Return random captions."""
    rows = captions.rows(count, seed)["text"].tolist()
    return [text_of(row) for row in rows]


def text_of(tokens: list[int]) -> str:
    return " ".join(captions.WORDS[word] for word in tokens if word)


def pictures(draw: Draw, count: int, generator: torch.Generator) -> tuple[Tensor, tuple[str, ...]]:
    """Return pictures [B, 3, 32, 32] in [-1, 1], and their captions, of which some are empty."""
    batch = draw(count, generator)
    texts = tuple(map(text_of, batch.conditions[0].tolist()))
    return F.pad(batch.x0, (MARGIN,) * 4, value=-1.0), texts


def reconstruction_loss(draw: Draw, count: int) -> Loss:
    def loss(autoencoder: nn.Module, generator: torch.Generator) -> Tensor:
        x0, _ = pictures(draw, count, generator)
        encoded = autoencoder.encode(x0)
        if isinstance(autoencoder, AutoencoderKL):
            posterior = encoded.latent_dist
            z, extra = posterior.mean, KL * posterior.kl().mean() / posterior.mean[0].numel()
            noise = torch.randn(z.shape, generator=generator) * posterior.std
        else:
            z, extra = encoded.latents, 0.0
            noise = NOISE * torch.randn(z.shape, generator=generator)
        error = (autoencoder.decode(z + noise).sample - x0).float()
        deviation, mean = torch.std_mean(z.float(), (0, 2, 3))
        moments = (mean.square() + (deviation - 1).square()).mean()
        return error.abs().mean() + 2 * error.square().mean() + MOMENTS * moments + extra

    return loss


class Denoiser(nn.Module):
    """The text encoder and the U-Net, which are trained together."""

    def __init__(self, tokens: int, latents: int, side: int, channels: tuple[int, int]) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=tokens,
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                projection_dim=WIDTH,
                bos_token_id=tokens - 2,
                eos_token_id=tokens - 1,
                pad_token_id=tokens - 1,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=side,
            in_channels=latents,
            out_channels=latents,
            block_out_channels=channels,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, x: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        text = self.text_encoder(tokens).last_hidden_state
        predicted: Tensor = self.unet(x, times, encoder_hidden_states=text).sample
        return predicted


def make_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer whose merges were learned from all captions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    texts = [
        form.format(item=item, colour=colour, place=place)
        for form in captions.FORMS
        for item in captions.ITEMS
        for colour in captions.COLOURS
        for place in captions.PLACES
    ]
    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    learned.train_from_iterator(texts, trainers.BpeTrainer(end_of_word_suffix="</w>", show_progress=False))
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    with TemporaryDirectory() as folder:
        _, merges = learned.model.save(folder)
        pairs = [line.split() for line in Path(merges).read_text().splitlines() if not line.startswith("#")]
        words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
        words += ["<|startoftext|>", "<|endoftext|>"]
        return CLIPTokenizer(
            {word: index for index, word in enumerate(words)}, [tuple(pair) for pair in pairs], model_max_length=LENGTH
        )


def tokens_of(tokenizer: CLIPTokenizer, texts: tuple[str, ...]) -> Tensor:
    """Return the ids [B, 16] of texts."""
    ids: Tensor = tokenizer(list(texts), padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    return ids


def denoising_loss(size: Size, autoencoder: Autoencoder, tokenizer: CLIPTokenizer, draw: Draw) -> Loss:
    scheduler = DDIMScheduler(prediction_type=size.prediction, **SCHEDULE)

    def loss(denoiser: nn.Module, generator: torch.Generator) -> Tensor:
        count = size.denoising.batch
        x0, texts = pictures(draw, count, generator)
        with torch.no_grad():
            z = encode(autoencoder, x0).float()
        noise = torch.randn(z.shape, generator=generator)
        times = torch.randint(1000, (count,), generator=generator)
        x = scheduler.add_noise(z, noise, times)
        answer = noise if size.prediction == "epsilon" else scheduler.get_velocity(z, noise, times)
        predicted: Tensor = denoiser(x, times, tokens_of(tokenizer, texts))
        return (predicted.float() - answer).square().mean()

    return loss


def encode(autoencoder: Autoencoder, x0: Tensor) -> Tensor:
    """Return the latents of pictures, without noise."""
    encoded: Any = autoencoder.encode(x0)
    latents: Tensor = encoded.latent_dist.mean if isinstance(autoencoder, AutoencoderKL) else encoded.latents
    return latents


def write_pipeline(size: Size, folder: Path, data: Path | None) -> None:
    draw, tokenizer = captions.CAPTIONED.open(data, "train"), make_tokenizer()
    torch.manual_seed(size.reconstruction.seed)
    autoencoder = size.autoencoder()
    loss = reconstruction_loss(draw, size.reconstruction.batch)
    train(autoencoder, loss, size.reconstruction, folder / "autoencoder", "weights.safetensors")
    load_weights(autoencoder, folder / "autoencoder" / "weights.safetensors")
    with torch.no_grad():
        _, latents, side, _ = encode(autoencoder, torch.zeros(1, 3, *(captions.SIZE + 2 * MARGIN,) * 2)).shape
    torch.manual_seed(size.denoising.seed)
    denoiser = Denoiser(len(tokenizer), latents, side, size.channels)
    loss = denoising_loss(size, autoencoder, tokenizer, draw)
    train(denoiser, loss, size.denoising, folder / "denoiser", "weights.safetensors")
    load_weights(denoiser, folder / "denoiser" / "weights.safetensors")
    settings = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "trailing", **SCHEDULE}
    scheduler = DDIMScheduler(prediction_type=size.prediction, **settings)
    StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=denoiser.text_encoder,
        unet=denoiser.unet,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "pipeline")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST (default: that of Debian's package)")
    parser.add_argument("--size", choices=SIZES, default="kl", help="the autoencoder (default %(default)s)")
    given = parser.parse_args()
    write_pipeline(SIZES[given.size], given.folder, given.data)


if __name__ == "__main__":
    main()
