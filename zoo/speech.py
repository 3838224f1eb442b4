"""A chunk-causal flow transformer for speech-like series: it processes one chunk, and attends to cached keys and values
of the two previous chunks.

The series are generated: bands of a spectrogram with harmonics of a slowly varying pitch, under the formants of a
vowel. The vowel of each chunk is a condition. The pitch can only be inferred from the previous chunks, so a chunk
without its past gets another pitch. As in the flow decoders of streaming speech (CosyVoice 2: Du et al. 2024, arXiv
2412.10117), each step reads what the same step of the previous chunk wrote, so that all chunks together equal one run
over the whole series.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Carried, Condition, ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Loss, Recipe, drop_labels
from fewstep.models.weights import load_weights

BANDS, FRAMES, RING = 24, 8, 16  # frames of a chunk; past frames in the reach of attention
CHUNKS = 6  # chunks of a series in training
WIDTH, DEPTH, HEADS, EMBEDDING = 96, 4, 4, 96
FORMANTS = torch.tensor([[6.0, 12.0], [2.0, 18.0], [3.0, 9.0], [8.0, 16.0], [5.0, 20.0]])  # in bands, by vowel
VOWELS = len(FORMANTS)
NULL = VOWELS
RECIPE = Recipe(steps=6_000, batch=32, rate=1e-3, seed=0)
SPEC = Spec(
    "speech",
    (BANDS, FRAMES),
    (Condition("vowel", input="vowel", null=NULL, low=0, high=VOWELS - 1),),
    "flow",
    ScheduleSpec("flow", timesteps=1000),
    carried=(Carried("past", (DEPTH, 2, HEADS, RING, WIDTH // HEADS)), Carried("heard", (RING,))),
)


class Block(nn.Module):
    """Attention over a chunk and its past, and an MLP, with scale, shift and gate from time and vowel (adaLN-zero:
    Peebles & Xie 2023, arXiv 2212.09748). Each head has a bias for each distance."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.first, self.last = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.modulation = nn.Linear(EMBEDDING, 6 * WIDTH)
        self.distance = nn.Parameter(torch.zeros(HEADS, RING + 2 * FRAMES - 1))
        zero(self.modulation)

    def forward(self, tokens: Tensor, embedding: Tensor, past: Tensor, distances: Tensor, hidden: Tensor) -> Tensor:
        """Return tokens [B, T, W] for tokens [B, T, W], and keys and values [B, 2, heads, S + T, D].

        past: keys and values [B, 2, heads, S, D] of the S previous frames.
        distances: distance of each key from each query [T, S + T], as indices of `distance`.
        hidden: added to scores, broadcast to [B, heads, T, S + T].
        """
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(embedding).chunk(6, dim=2)
        h = self.norm1(tokens) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        k, v = torch.cat([past[:, 0], k], dim=2), torch.cat([past[:, 1], v], dim=2)
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + self.distance[:, distances] + hidden
        tokens = tokens + gate1 * self.out((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
        h = self.norm2(tokens) * (1 + scale2) + shift2
        tokens = tokens + gate2 * self.last(F.gelu(self.first(h), approximate="tanh"))
        return tokens, torch.stack([k, v], dim=1)


class Speech(nn.Module):
    """Predicts the velocity eps - x0 of x [B, BANDS, FRAMES] at time [B] in [0, 1000], for a vowel [B] in 0..4 or
    `NULL`.

    It also returns `past` and `heard` in the form that the next chunk needs.

    past: keys and values of the RING previous frames, [B, DEPTH, 2, heads, RING, D].
    heard: [B, RING], 1 where such a frame exists.
    """

    def __init__(self) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.vowel_embedding = nn.Embedding(VOWELS + 1, EMBEDDING)
        self.frame, self.bands = nn.Linear(BANDS, WIDTH), nn.Linear(WIDTH, BANDS)
        self.blocks = nn.ModuleList([Block() for _ in range(DEPTH)])
        self.norm_out = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation_out = nn.Linear(EMBEDDING, 2 * WIDTH)
        zero(self.modulation_out)
        zero(self.bands)

    def forward(
        self, x: Tensor, time: Tensor, vowel: Tensor, past: Tensor, heard: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        distances = _distances(torch.arange(FRAMES), torch.arange(-RING, FRAMES))
        hidden = F.pad(1e4 * (heard - 1), (0, FRAMES))[:, None, None]
        velocity, after = self._run(x, time, vowel[:, None], past, distances, hidden)
        heard = torch.cat([heard[:, FRAMES:], torch.ones_like(heard[:, :FRAMES])], dim=1)
        return velocity, after[:, :, :, :, -RING:], heard

    def whole(self, x: Tensor, time: Tensor, vowels: Tensor) -> Tensor:
        """Return the velocity of a whole series [B, BANDS, N * FRAMES] with a vowel for each chunk [B, N]. A frame
        attends to its chunk and to the RING frames before it."""
        frames = torch.arange(x.shape[2])
        chunk = frames // FRAMES * FRAMES
        is_seen = (frames < chunk[:, None] + FRAMES) & (frames >= chunk[:, None] - RING)
        distances = _distances(frames, frames).masked_fill(~is_seen, 0)
        hidden = torch.zeros(is_seen.shape).masked_fill(~is_seen, -1e4)
        past = x.new_zeros(x.shape[0], DEPTH, 2, HEADS, 0, WIDTH // HEADS)
        return self._run(x, time, vowels.repeat_interleave(FRAMES, dim=1), past, distances, hidden)[0]

    def _run(
        self, x: Tensor, time: Tensor, vowel: Tensor, past: Tensor, distances: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        timed = self.time_mlp(time_features(time, EMBEDDING).to(x.dtype))[:, None]
        embedding = F.silu(timed + self.vowel_embedding(vowel))
        tokens, after = self.frame(x.transpose(1, 2)), []
        for number, block in enumerate(self.blocks):
            tokens, keys_values = block(tokens, embedding, past[:, number], distances, hidden)
            after.append(keys_values)
        scale, shift = self.modulation_out(embedding).chunk(2, dim=2)
        return self.bands(self.norm_out(tokens) * (1 + scale) + shift).transpose(1, 2), torch.stack(after, dim=1)


def _distances(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the distance of each key from each query, as indices of `Block.distance`."""
    return queries[:, None] - keys + FRAMES - 1


def series(count: int, chunks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random series [count, BANDS, chunks * FRAMES] in [-1, 1], and the vowels of their chunks [count,
    chunks]."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    frames = torch.arange(chunks * FRAMES).float()
    vowels = torch.randint(VOWELS, (count, chunks), generator=generator)
    pitch = uniform(1.0, 4.0) + uniform(0.2, 0.6) * torch.sin(uniform(0.1, 0.25) * frames + uniform(0, 6.28))
    loudness = 0.75 + 0.25 * torch.sin(uniform(0.3, 0.6) * frames + uniform(0, 6.28))
    harmonics = pitch[:, :, None] * torch.arange(1, 9)  # [count, frames, 8], in bands
    bands = torch.arange(BANDS)[:, None]
    ridges = torch.exp(-(((bands - harmonics[:, :, None]) / 0.5) ** 2)).amax(3)  # [count, frames, bands]
    formants = FORMANTS[vowels].repeat_interleave(FRAMES, dim=1)  # [count, frames, 2]
    envelope = (0.25 + torch.exp(-(((bands - formants[:, :, None]) / 3) ** 2)).sum(3)).clamp(max=1)
    return (2 * loudness[:, :, None] * ridges * envelope - 1).transpose(1, 2), vowels


def loss(network: Speech, generator: torch.Generator) -> Tensor:
    """Return the mean squared error of the velocity over whole series. No chunk is run separately in training."""
    x0, vowels = series(RECIPE.batch, CHUNKS, generator)
    time, noise = torch.rand(len(x0), generator=generator), torch.randn(x0.shape, generator=generator)
    t = time[:, None, None]
    velocity = network.whole(
        (1 - t) * x0 + t * noise, 1000 * time, drop_labels(vowels.flatten(), NULL, generator).view(vowels.shape)
    )
    return (velocity.float() - (noise - x0)).square().mean()


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Return the untrained network and its loss. Both splits are generated in the same way, and no folder is read."""
    return Speech(), loss


def make() -> tuple[nn.Module, Spec]:
    return load_weights(Speech(), Path(__file__).with_suffix(".safetensors")), SPEC
