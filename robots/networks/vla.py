"""Policies with a vision-language prefix and an action expert: SmolVLA (Shukor et al. 2025, arXiv 2506.01844), pi0
(Black et al. 2024, arXiv 2410.24164) and pi0.5 (Physical Intelligence 2025, arXiv 2504.16054).

Everything up to the keys and values of the prefix depends only on the observations, so it runs once per call.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.robots.networks.decoder import DecoderLayer, DecoderShape, Memory, make_norm, rotary_embedding
from fewstep.robots.networks.encoders import HIDDEN, Shape, Siglip, tanh_gelu
from fewstep.robots.networks.vision import Letterbox, Size

COARSE, FINE = 16, 2048  # coarse frequencies are multiples of 1 / COARSE turns, coarse times of 1 / FINE
Place = Literal["prefix", "expert", "prompt"]


@dataclass(frozen=True)
class CameraShape:
    """The image inputs of a policy: cameras of these sizes. Images are letterboxed to one size and cut into patches;
    `merged` patches along each side become one token."""

    encoder: Shape
    cameras: tuple[Size, ...]
    size: Size
    patch: int
    positions: int
    merged: int = 1
    centred: bool = False


@dataclass(frozen=True)
class Experts:
    """The layers of the language model, which have one shape (`language`), and the layers of the action expert, one for
    each layer of the language model; None for a layer without one.

    `gemma`: use the activation and epsilon of Gemma, whose image embeddings are not scaled; otherwise SmolLM2's.
    """

    language: DecoderShape
    expert: tuple[DecoderShape | None, ...]
    gemma: bool


@dataclass(frozen=True)
class ActionSpace:
    """Sequences [length, width] of padded actions, and a state padded to `state` elements.

    place: the state is a token of the prefix, a token of the expert, or part of the prompt. causal: an action attends
    only to earlier actions. periods: the shortest and the longest period of the time features.
    """

    length: int
    width: int
    state: int
    place: Place
    causal: bool
    periods: tuple[float, float]


class VisionLanguageAction(nn.Module):
    """The denoiser: it predicts noise - actions from noisy actions [B, length, width] at time [B] (1 is noise).

    Its conditions are the normalised state [B, 1, n] unless it is part of the prompt, images [B, 1, 3, H, W] in
    [0, 1], embedded words [B, words, language width], and their mask [B, words].
    """

    def __init__(self, eyes: CameraShape, experts: Experts, space: ActionSpace) -> None:
        super().__init__()
        self.eyes, self.space = eyes, space
        language, gemma = experts.language, experts.gemma
        first = next(shape for shape in experts.expert if shape is not None)
        width, epsilon = first.width, 1e-6 if gemma else 1e-5
        activation = tanh_gelu if gemma else F.silu
        self.letterboxes = nn.ModuleList([Letterbox(size, eyes.size, centred=eyes.centred) for size in eyes.cameras])
        self.vision = Siglip(eyes.encoder, eyes.patch, eyes.positions, eyes.size)
        self.connector = nn.Linear(eyes.encoder.width * eyes.merged**2, language.width, bias=gemma)
        self.scale = 1.0 if gemma else math.sqrt(language.width)
        self.language = nn.ModuleList([DecoderLayer(language, activation, epsilon) for _ in experts.expert])
        self.expert = nn.ModuleList(
            [nn.Identity() if shape is None else DecoderLayer(shape, activation, epsilon) for shape in experts.expert]
        )
        self.norm = make_norm(first, epsilon)
        if space.place != "prompt":
            self.state_proj = nn.Linear(space.state, language.width if space.place == "prefix" else width)
        self.action_in_proj, self.action_out_proj = nn.Linear(space.width, width), nn.Linear(width, space.width)
        self.adapts = bool(first.condition)
        self.time_mlp_in = nn.Linear(width if self.adapts else 2 * width, width)
        self.time_mlp_out = nn.Linear(width, width)
        self.head, self.shared = language.head, language.heads // language.groups

    def forward(self, x: Tensor, time: Tensor, *observed: Tensor | Sequence[Tensor]) -> Tensor:
        *state, pictures, words, mask = observed
        assert isinstance(words, Tensor) and isinstance(mask, Tensor) and not isinstance(pictures, Tensor)
        state_token = self._project_state(state[0]) if state and isinstance(state[0], Tensor) else None
        memory, shown = self._encode_prefix(
            pictures, words, mask, state_token if self.space.place == "prefix" else None
        )
        unseen, count = (1 - shown)[:, None, None] * HIDDEN, shown.sum(dim=1, keepdim=True)
        if state_token is not None and self.space.place == "expert":  # it attends to no action: once per call suffices
            unseen, by = F.pad(unseen, (0, 1)), rotary_embedding(count, self.head)
            for number, layer in enumerate(self.expert):
                state_token, memory[number] = layer(state_token, by, unseen, memory[number])
            count = count + 1
        return self._predict_velocity(x, time, memory, unseen, count)

    def _encode_prefix(
        self, pictures: Sequence[Tensor], words: Tensor, mask: Tensor, state: Tensor | None
    ) -> tuple[list[Memory], Tensor]:
        """Return the memory of each layer, and a float mask [B, S] that is 0 for padding tokens."""
        seen = self._encode_pictures(pictures)
        tokens, shown = [seen, words], [torch.ones_like(seen[..., 0]), mask.float()]
        if state is not None:
            tokens, shown = [*tokens, state], [*shown, torch.ones_like(state[..., 0])]
        h, known = torch.cat(tokens, dim=1), torch.cat(shown, dim=1)
        by, unseen = rotary_embedding(known.cumsum(dim=1) - 1, self.head), (1 - known)[:, None, None] * HIDDEN
        if state is not None:  # pictures and words do not attend to it
            length = h.shape[1]
            hidden = torch.zeros(length, length)
            hidden[:-1, -1] = HIDDEN
            unseen = unseen + hidden.repeat(self.shared, 1)
        memory = []
        for layer in self.language:
            h, own = layer(h, by, unseen)
            memory.append(own)
        return memory, known

    def _encode_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Return the image tokens [B, cameras * n, language width] of all cameras, one camera after the other."""
        boxed = [box(picture[:, -1]) for box, picture in zip(self.letterboxes, pictures, strict=True)]
        tokens = self.vision(torch.stack(boxed, dim=1).flatten(0, 1) * 2 - 1)
        merged = self.eyes.merged
        rows, columns = (side // self.eyes.patch // merged for side in self.eyes.size)
        tokens = tokens.unflatten(1, (rows, merged, columns, merged)).transpose(2, 3).flatten(3).flatten(1, 2)
        return (self.connector(tokens) * self.scale).unflatten(0, (-1, len(boxed))).flatten(1, 2)

    def _project_state(self, state: Tensor) -> Tensor:
        last = state[:, -1:]
        return self.state_proj(F.pad(last, (0, self.space.state - last.shape[-1])))

    def _predict_velocity(self, x: Tensor, time: Tensor, memory: list[Memory], unseen: Tensor, count: Tensor) -> Tensor:
        """Run the action expert on noisy actions x and return the predicted velocity. The expert attends to `memory`,
        the keys and values of images, prompt and state."""
        h, features, condition = self.action_in_proj(x), self._time_features(time), None
        if self.adapts:
            condition = F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(features))))
        else:
            both = torch.cat([h, features[:, None].expand_as(h)], dim=2)
            h = self.time_mlp_out(F.silu(self.time_mlp_in(both)))
        length, seen = self.space.length, unseen.shape[-1]
        at = torch.arange(length)[None]
        joint = F.pad(unseen, (0, length))
        if self.space.causal:
            later = torch.full((length, length), HIDDEN).triu(1)
            joint = joint + F.pad(later, (seen, 0)).repeat(self.shared, 1)
        by, crossing = rotary_embedding(count + at, self.head), rotary_embedding(at, self.head)
        for layer, own in zip(self.expert, memory, strict=True):
            if isinstance(layer, DecoderLayer):
                place = (crossing, unseen) if layer.crosses else (by, joint)
                h, _ = layer(h, *place, own, condition)
        return self.action_out_proj(self.norm(h, condition)[0])

    def _time_features(self, time: Tensor) -> Tensor:
        """Return sines and cosines [B, expert width] of time, with geometrically spaced periods.

        The shortest period repeats hundreds of times. Whole turns are subtracted in exact float32 products, so that the
        phase keeps its precision: the coarse parts of time and frequency have 12 bits each.
        """
        least, most = self.space.periods
        share = torch.linspace(0.0, 1.0, self.action_in_proj.out_features // 2, dtype=torch.float64)
        frequency = 1 / (least * (most / least) ** share)  # turns
        coarse = (frequency * COARSE).round() / COARSE
        early = (time * FINE).round()[:, None] / FINE
        turns = early * coarse.float()
        rest = early * (frequency - coarse).float() + (time[:, None] - early) * frequency.float()
        angles = 2 * math.pi * (turns - turns.floor() + rest)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class WordEmbedding(nn.Module):
    """Embed token ids [N, words], scaled as in the language model. Returns the embeddings and the mask."""

    def __init__(self, table: Tensor, scale: float) -> None:
        super().__init__()
        self.table, self.scale = nn.Parameter(table), scale

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, mask = inputs
        return F.embedding(ids, self.table) * self.scale, mask.clone()
