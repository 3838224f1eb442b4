"""The action heads of GR00T N1.5, N1.6 and N1.7: a diffusion transformer over the state and the actions, which reads
features of the vision-language model (NVIDIA 2025, arXiv 2503.14734).

    head = load_groot_head(weights, embodiment=10, horizon=16)
    head(x, time, state, features, seen, pictures)

They differ in what their weights contain. N1.5 has learned tokens between the state and the actions, and all its blocks
read all features. N1.6 has no self-attention of the features. Weight names are those of NVIDIA's checkpoints and
LeRobot. The vision-language model itself is not part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.robots.networks.unet1d import TimeFeatures

HEAD = "action_head."  # begins the names of the head's weights
BUCKETS = 1000  # the time is rounded down to a multiple of 1 / BUCKETS
DIT_HEAD, FEATURE_HEAD = 48, 64  # width of an attention head, in all sizes of the transformer, and of the features'
EPSILON = 1e-5
FUTURE, MASKED = "future_tokens.weight", "mask_token"  # the second replaces some states in training only
GIVE_WEIGHTS = "give all weights of a checkpoint of GR00T N1.5, N1.6 or N1.7"


@dataclass(frozen=True)
class GrootShape:
    """Sizes of the head.

    head, feature_head: widths of an attention head. positions: learned positions of actions; 0 without them.
    future: learned tokens between the state and the actions; 0 without them.
    text_every: of the blocks that read features, each `text_every`-th one reads those of the text, and the others those
        of pictures; 0 if all blocks read all features.
    """

    horizon: int
    actions: int
    state: int
    width: int
    hidden: int
    features: int
    layers: int
    feature_layers: int
    text_every: int
    head: int
    feature_head: int
    positions: int
    future: int
    has_norm: bool


class EmbodimentMlp(nn.Module):
    """Two linear layers of one embodiment."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(F.relu(self.layer1(x)))


class ActionEncoder(nn.Module):
    """Tokens [B, horizon, width] of noisy actions, whose time is in buckets [B]."""

    def __init__(self, actions: int, width: int) -> None:
        super().__init__()
        self.W1, self.W2, self.W3 = nn.Linear(actions, width), nn.Linear(2 * width, width), nn.Linear(width, width)

    def forward(self, actions: Tensor, bucket: Tensor) -> Tensor:
        half = self.W1.out_features // 2
        angles = bucket[:, None] * torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10000.0)) / half))
        # The product with the time is separate, so that it runs once per call.
        of_actions, of_time = self.W2.weight.chunk(2, dim=1)
        timed = F.linear(torch.cat([angles.sin(), angles.cos()], dim=1), of_time, self.W2.bias)
        return self.W3(F.silu(F.linear(self.W1(actions), of_actions) + timed[:, None]))


class FeatureAttention(nn.Module):
    """Multi-head attention from tokens of one width to tokens of another."""

    def __init__(self, width: int, head: int, memory: int) -> None:
        super().__init__()
        self.heads = width // head
        self.to_q, self.to_k, self.to_v = nn.Linear(width, width), nn.Linear(memory, width), nn.Linear(memory, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask [B, 1, 1, S] is added to the scores."""
        q, k, v = (
            project(read).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project, read in ((self.to_q, tokens), (self.to_k, memory), (self.to_v, memory))
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Gelu(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"0": Gelu(width, 4 * width), "2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["2"](self.net["0"](x))


class FeatureBlock(nn.Module):
    """Self-attention of the features."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        self.attn1, self.ff = FeatureAttention(width, head, width), FeedForward(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed, mask)
        return x + self.ff(self.norm3(x))


class FeatureBlocks(nn.Module):
    def __init__(self, count: int, width: int, head: int) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([FeatureBlock(width, head) for _ in range(count)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.transformer_blocks:
            x = block(x, mask)
        return x


class ActionBlock(nn.Module):
    """FeatureAttention to a memory, or of the tokens to each other, after a norm that follows the time."""

    def __init__(self, width: int, head: int, memory: int) -> None:
        super().__init__()
        self.norm1 = nn.ModuleDict({"linear": nn.Linear(width, 2 * width)})
        self.attn1, self.ff, self.width = FeatureAttention(width, head, memory), FeedForward(width), (width,)

    def forward(self, x: Tensor, timed: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        scale, shift = self.norm1["linear"](F.silu(timed))[:, None].chunk(2, dim=2)
        normed = F.layer_norm(x, self.width, eps=EPSILON) * (1 + scale) + shift
        x = x + self.attn1(normed, normed if memory is None else memory, mask)
        return x + self.ff(F.layer_norm(x, self.width, eps=EPSILON))


class TimestepEncoder(nn.Module):
    """Features [B, width] of times in buckets [B]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = TimeFeatures(256)
        self.timestep_embedder = nn.ModuleDict({"linear_1": nn.Linear(256, width), "linear_2": nn.Linear(width, width)})

    def forward(self, bucket: Tensor) -> Tensor:
        sines, cosines = self.time(bucket).chunk(2, dim=1)
        hidden = F.silu(self.timestep_embedder["linear_1"](torch.cat([cosines, sines], dim=1)))
        return self.timestep_embedder["linear_2"](hidden)


class Transformer(nn.Module):
    """The blocks, of which every second one reads the features."""

    def __init__(self, shape: GrootShape) -> None:
        super().__init__()
        width, self.text_every = shape.width, shape.text_every
        self.timestep_encoder = TimestepEncoder(width)
        self.transformer_blocks = nn.ModuleList(
            [ActionBlock(width, shape.head, width if number % 2 else shape.features) for number in range(shape.layers)]
        )
        self.proj_out_1, self.proj_out_2 = nn.Linear(width, 2 * width), nn.Linear(width, shape.hidden)

    def forward(
        self, tokens: Tensor, bucket: Tensor, features: Tensor, seen: Tensor, pictures: Tensor | None
    ) -> Tensor:
        timed = self.timestep_encoder(bucket)
        reads = (seen, seen) if pictures is None else (seen * (1 - pictures), seen * pictures)
        masks = [_mask(tokens_read) for tokens_read in reads]
        for number, block in enumerate(self.transformer_blocks):
            if number % 2:
                tokens = block(tokens, timed)
            else:
                reads_pictures = self.text_every and number // 2 % self.text_every
                tokens = block(tokens, timed, features, masks[bool(reads_pictures)])
        shift, scale = self.proj_out_1(F.silu(timed))[:, None].chunk(2, dim=2)
        return self.proj_out_2(F.layer_norm(tokens, tokens.shape[2:], eps=1e-6) * (1 + scale) + shift)


class GrootHead(nn.Module):
    """The denoiser of noisy actions [B, horizon, actions] at time [B], which is 1 for noise: its output is noise -
    data.

    It is conditioned on the normalised state [B, state], padded with zeros, and on the last hidden states of the
    vision-language model, `features` [B, S, n]. `seen` [B, S] is 1 for tokens that are not padding, and `pictures` [B,
    S] is 1 for those of pictures; a head with `text_every` 0 does not use it. Padding has no effect.
    """

    def __init__(self, shape: GrootShape) -> None:
        super().__init__()
        self.shape = shape
        self.vlln = nn.LayerNorm(shape.features) if shape.has_norm else nn.Identity()
        self.vl_self_attention = FeatureBlocks(shape.feature_layers, shape.features, shape.feature_head)
        self.state_encoder = EmbodimentMlp(shape.state, shape.hidden, shape.width)
        self.action_encoder = ActionEncoder(shape.actions, shape.width)
        self.position_embedding = nn.Embedding(shape.positions, shape.width) if shape.positions else None
        self.future_tokens = nn.Embedding(shape.future, shape.width) if shape.future else None
        self.model = Transformer(shape)
        self.action_decoder = EmbodimentMlp(shape.hidden, shape.hidden, shape.actions)

    def forward(
        self, x: Tensor, time: Tensor, state: Tensor, features: Tensor, seen: Tensor, pictures: Tensor | None = None
    ) -> Tensor:
        if self.shape.text_every and pictures is None:
            raise ValueError("blocks of this head read pictures and text apart; give `pictures`")
        features = self.vl_self_attention(self.vlln(features), _mask(seen))
        bucket = torch.floor((1 - time) * BUCKETS + 1e-3)  # 1 - 0.9 is slightly less than 0.1
        tokens = self.action_encoder(x, bucket)
        if self.position_embedding is not None:
            tokens = tokens + self.position_embedding.weight[: self.shape.horizon]
        before = [self.state_encoder(state)[:, None]]
        if self.future_tokens is not None:
            before.append(self.future_tokens.weight.expand(len(x), -1, -1))
        sees = pictures if self.shape.text_every else None
        known = self.model(torch.cat([*before, tokens], dim=1), bucket, features, seen, sees)
        return -self.action_decoder(known[:, 1 + self.shape.future :])


def load_groot_head(
    weights: Mapping[str, Tensor],
    embodiment: int,
    horizon: int,
    *,
    text_every: int = 2,
    head: int = DIT_HEAD,
    feature_head: int = FEATURE_HEAD,
) -> GrootHead:
    """Return the head of a checkpoint for one robot.

    Args:
        weights: all weights of the checkpoint; others than the action head's are ignored.
        embodiment: the robot's number (`embodiment_id.json`), whose state and action layers are taken.
        horizon: actions of a sequence, `action_horizon` in config.json.
        text_every: `attend_text_every_n_blocks` in config.json; 0 if `use_alternate_vl_dit` is false there. N1.5 has
            neither, and always 0.
        head, feature_head: `attention_head_dim` in `diffusion_model_cfg` and `vl_self_attention_cfg`.

    Raises ValueError for weights of another network, an unknown embodiment, and sizes that the weights do not have.
    """
    tensors = {name.partition(HEAD)[2]: tensor.float() for name, tensor in weights.items() if HEAD in name}
    tensors.pop(MASKED, None)
    try:
        embodiments, state, _ = tensors["state_encoder.layer1.W"].shape
        if not 0 <= embodiment < embodiments:
            raise ValueError(f"embodiment {embodiment!r}; give a number from 0 to {embodiments - 1}")
        shape = GrootShape(
            horizon,
            tensors["action_encoder.W1.W"].shape[1],
            state,
            tensors["model.proj_out_2.weight"].shape[1],
            tensors["model.proj_out_2.weight"].shape[0],
            tensors["model.transformer_blocks.0.attn1.to_k.weight"].shape[1],
            _count(tensors, "model.transformer_blocks."),
            _count(tensors, "vl_self_attention.transformer_blocks."),
            0 if FUTURE in tensors else text_every,
            head,
            feature_head,
            len(tensors.get("position_embedding.weight", ())),
            len(tensors.get(FUTURE, ())),
            "vlln.weight" in tensors,
        )
        _check_sizes(shape)
        network = GrootHead(shape)
        network.load_state_dict(_one_embodiment(tensors, embodiment))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the weights are not those of an action head of GR00T ({error}); {GIVE_WEIGHTS}") from error
    return network.eval()


def _check_sizes(shape: GrootShape) -> None:
    """Raise ValueError for a horizon without positions, and for a head that does not divide its width."""
    if not 1 <= shape.horizon <= (shape.positions or shape.horizon):
        what = f"horizon {shape.horizon}, and {shape.positions} positions of actions"
        raise ValueError(f"{what}; give action_horizon of config.json")
    feature_head = shape.feature_head if shape.feature_layers else shape.features
    for name, head, width in (("head", shape.head, shape.width), ("feature_head", feature_head, shape.features)):
        if head < 1 or width % head:
            raise ValueError(f"{name} {head} does not divide {width}; give attention_head_dim of config.json")


def _one_embodiment(tensors: Mapping[str, Tensor], embodiment: int) -> dict[str, Tensor]:
    """Return the weights with the layers of one embodiment, as those of linear layers."""
    single = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind in ("W", "b"):
            own = tensor[embodiment]
            single[f"{layer}.{'weight' if kind == 'W' else 'bias'}"] = own.mT if kind == "W" else own
        else:
            single[name] = tensor
    return single


def _count(names: Mapping[str, Tensor], start: str) -> int:
    return len({name.removeprefix(start).partition(".")[0] for name in names if name.startswith(start)})


def _mask(reads: Tensor) -> Tensor:
    """Return what is added to scores [B, 1, 1, S]: 0 for tokens that are read."""
    return (1 - reads.float())[:, None, None] * torch.finfo(torch.float32).min
