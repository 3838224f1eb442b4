"""Small networks of unusual operations, each from features [B, C, H, W] to features of the same shape."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition

Op = Callable[["Odd", Tensor], Tensor]


def tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)


def image(t: Tensor, like: Tensor) -> Tensor:
    return t.transpose(1, 2).reshape(like.shape)


def heads(t: Tensor, n: int) -> Tensor:
    return t.unflatten(-1, (n, -1)).transpose(1, 2)


def attend(m: "Odd", h: Tensor, **options: object) -> Tensor:
    q, k, v = (heads(z, 2) for z in m.qkv(tokens(h)).chunk(3, -1))
    return image(F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2), h)  # type: ignore[arg-type]


def write_in_place(m: "Odd", h: Tensor) -> Tensor:
    y = h.clone()
    y[:, ::2] = h[:, 1::2] * 0.5
    y[:, 0] += h.mean((1, 2, 3))[:, None, None]
    y[..., -1].mul_(2)
    return y


def scattered(m: "Odd", h: Tensor) -> Tensor:
    order = torch.arange(h.shape[1]).flip(0)
    return torch.zeros_like(h).scatter_add(1, order[None, :, None, None].expand_as(h), h.sin())


def modulated(m: "Odd", h: Tensor) -> Tensor:
    b, c = h.shape[:2]
    style = 1 + m.style(h.mean((2, 3)))
    weight = m.conv.weight[None] * style[:, None, :, None, None]
    weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-6)
    return F.conv2d(h.reshape(1, b * c, *h.shape[2:]), weight.reshape(b * c, c, 3, 3), padding=1, groups=b).reshape(
        h.shape
    )


def rotary(m: "Odd", h: Tensor) -> Tensor:
    t = tokens(h)
    angle = torch.arange(t.shape[1])[:, None] * torch.exp(-torch.arange(t.shape[2] // 2) / 3.0)
    a, b = t.chunk(2, -1)
    return image(torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1), h)


def complex_rotary(m: "Odd", h: Tensor) -> Tensor:
    t = tokens(h)
    angle = torch.arange(t.shape[1])[:, None] * torch.exp(-torch.arange(t.shape[2] // 2) / 3.0)
    z = torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(torch.ones_like(angle), angle)
    return image(torch.view_as_real(z).flatten(2), h)


def gru(m: "Odd", h: Tensor) -> Tensor:
    return image(m.gru(tokens(h))[0], h)


def top(m: "Odd", h: Tensor) -> Tensor:
    values, places = tokens(h).topk(3, dim=1)
    return h + values.mean(1)[..., None, None] + places.float().mean(1)[..., None, None] * 0.01


def grid(m: "Odd", h: Tensor) -> Tensor:
    theta = torch.tensor([[[0.9, 0.2, 0.1], [-0.1, 1.1, -0.2]]]).expand(h.shape[0], -1, -1)
    return F.grid_sample(h, F.affine_grid(theta, list(h.shape), align_corners=False), align_corners=False)


OPS: dict[str, Op] = {
    "roll": lambda m, h: h.roll((1, -2), (2, 3)),
    "flip": lambda m, h: h.flip(2) - h.flip((1, 3)),
    "shuffle": lambda m, h: F.pixel_shuffle(F.pixel_unshuffle(h, 2).flip(1), 2),
    "unfold": lambda m, h: F.fold(F.unfold(h, 3, padding=1) / 9, h.shape[2:], 3, padding=1),
    "cumsum": lambda m, h: h.cumsum(2) / h.shape[2] - h.cumsum(-1) / 8,
    "sort": lambda m, h: h.sort(dim=2, descending=True).values,
    "argsort": lambda m, h: h.gather(3, h.argsort(3)),
    "top": top,
    "one_hot": lambda m, h: h + F.one_hot(h.argmax(1), h.shape[1]).permute(0, 3, 1, 2).float(),
    "einsum": lambda m, h: torch.einsum("bchw,cd,bdhv->bchv", h, m.square, h) / 32,
    "einsum_diagonal": lambda m, h: h + torch.einsum("bchh->bc", h)[..., None, None],
    "bucketize": lambda m, h: h + torch.bucketize(h, torch.linspace(-2, 2, 9)).float() * 0.1,
    "searchsorted": lambda m, h: h + torch.searchsorted(torch.linspace(-2, 2, 9), h, right=True).float() * 0.1,
    "select": lambda m, h: h.index_select(1, torch.tensor([*range(1, h.shape[1]), 0])),
    "scatter": scattered,
    "masked_fill": lambda m, h: h.masked_fill(h > 0.3, -1.0),
    "where": lambda m, h: torch.where(h.abs() < 0.5, h.exp(), h.sin()),
    "unbind": lambda m, h: torch.stack([v * (i + 1) / 8 for i, v in enumerate(h.unbind(1))], 1),
    "split": lambda m, h: torch.cat([p * (i + 1) for i, p in enumerate(h.split([3, 1, h.shape[1] - 4], 1))][::-1], 1),
    "nearest": lambda m, h: F.interpolate(F.interpolate(h, scale_factor=0.5), scale_factor=2.0),
    "bilinear": lambda m, h: F.interpolate(
        F.interpolate(h, scale_factor=2.0, mode="bilinear"), h.shape[2:], mode="bilinear", align_corners=True
    ),
    "bicubic": lambda m, h: F.interpolate(F.interpolate(h, size=(5, 7), mode="bicubic"), h.shape[2:], mode="bicubic"),
    "area": lambda m, h: F.interpolate(F.interpolate(h, size=(4, 4), mode="area"), h.shape[2:], mode="nearest-exact"),
    "antialias": lambda m, h: F.interpolate(
        F.interpolate(h, size=(5, 5), mode="bilinear", antialias=True), h.shape[2:]
    ),
    "adaptive": lambda m, h: h - F.interpolate(F.adaptive_avg_pool2d(h, (2, 4)), h.shape[2:]),
    "max_pool": lambda m, h: F.max_pool2d(h, 3, 1, 2, dilation=2),
    "ceil_pool": lambda m, h: F.interpolate(F.avg_pool2d(h, 3, 2, ceil_mode=True), h.shape[2:]),
    "pad_pool": lambda m, h: F.interpolate(F.avg_pool2d(F.pad(h, (0, 1, 0, 1)), 2, 2), h.shape[2:]),
    "reflect": lambda m, h: F.conv2d(F.pad(h, (1, 1, 1, 1), mode="reflect"), m.conv.weight),
    "circular": lambda m, h: F.conv2d(F.pad(h, (1, 1, 1, 1), mode="circular"), m.conv.weight),
    "replicate": lambda m, h: F.conv2d(F.pad(h, (2, 0, 1, 1), mode="replicate"), m.conv.weight),
    "transposed": lambda m, h: F.conv_transpose2d(
        h[:, :, ::2, ::2], m.conv.weight, stride=2, padding=1, output_padding=1
    ),
    "dilated": lambda m, h: F.conv2d(h, m.conv.weight[:, :1], padding=2, dilation=2, groups=h.shape[1]),
    "attention": lambda m, h: attend(m, h),
    "causal": lambda m, h: attend(m, h, is_causal=True),
    "scaled_attention": lambda m, h: attend(m, h, scale=0.05),
    "masked_attention": lambda m, h: attend(m, h, attn_mask=torch.ones(64, 64).tril(3).bool()),
    "biased_attention": lambda m, h: attend(
        m, h, attn_mask=-torch.arange(64.0).sub(torch.arange(64.0)[:, None]).abs() / 9
    ),
    "temperature": lambda m, h: (h * 3).softmax(1) * h.shape[1],
    "logsumexp": lambda m, h: h - h.logsumexp((2, 3), keepdim=True),
    "product": lambda m, h: h * (1 + 0.01 * h.tanh()).prod(2, keepdim=True),
    "deviation": lambda m, h: (
        (h - h.mean(2, keepdim=True)) / (h.std(2, keepdim=True) + 0.5) + h.var((1, 3), unbiased=False, keepdim=True)
    ),
    "norms": lambda m, h: (
        h / (h.norm(p=3, dim=1, keepdim=True) + 0.1) + torch.linalg.vector_norm(h, 1, dim=3, keepdim=True) / 50
    ),
    "cdist": lambda m, h: (
        h + torch.cdist(tokens(h), tokens(h).flip(1)).mean(-1).reshape(h.shape[0], 1, *h.shape[2:]) * 0.1
    ),
    "erf": lambda m, h: torch.erf(h) + torch.special.expit(h) + torch.erfinv(h.tanh() * 0.9),
    "atan2": lambda m, h: torch.atan2(h, h.roll(1, 1) + 2),
    "rounding": lambda m, h: (
        h + (h * 2).floor() * 0.1 + (h * 3).round() * 0.05 + h.trunc() * 0.1 + (h * 5).frac() * 0.1
    ),
    "remainder": lambda m, h: torch.remainder(h, 0.7) + torch.fmod(h, 0.6) + h % 1.3,
    "sign": lambda m, h: h.sign() * h.abs().sqrt() + torch.nan_to_num(h / h) * 0.2,
    "clamps": lambda m, h: torch.clamp(h, min=h.mean((2, 3), keepdim=True)) - torch.minimum(h, h.flip(1)),
    "lerp": lambda m, h: torch.lerp(h, h.flip(3), 0.3) + torch.addcmul(h, h, h.tanh(), value=0.2),
    "triangular": lambda m, h: h.triu(1) - h.tril(-2) + torch.diag_embed(h.diagonal(dim1=2, dim2=3)),
    "tensordot": lambda m, h: torch.tensordot(h, m.square, ([1], [0])).permute(0, 3, 1, 2) / 4,
    "outer": lambda m, h: h + h.mean(3)[..., None] * h.mean(2)[:, :, None],
    "repeat": lambda m, h: h[:, :, ::2].repeat_interleave(2, dim=2) + h[..., :4].tile(1, 1, 1, 2),
    "coordinates": lambda m, h: (
        h + sum(torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(0, 2, 8), indexing="ij"))
    ),
    "rotary": rotary,
    "complex_rotary": complex_rotary,
    "gru": gru,
    "modulated": modulated,
    "in_place": write_in_place,
    "glu": lambda m, h: F.glu(torch.cat([h, h.flip(1)], 1), 1) + F.silu(h) * h.tanh(),
    "activations": lambda m, h: (
        F.mish(h)
        + F.hardswish(h)
        + F.softplus(h) * 0.3
        + F.elu(h)
        + F.gelu(h, approximate="tanh")
        + F.leaky_relu(h, 0.3)
        + F.celu(h)
        + F.selu(h) * 0.1
        + F.hardtanh(h, -0.5, 0.7)
        + F.softsign(h)
    ),
    "norm_layers": lambda m, h: (
        F.instance_norm(h)
        + F.local_response_norm(h, 3)
        + F.layer_norm(tokens(h), (h.shape[1],)).transpose(1, 2).reshape(h.shape)
        + F.normalize(h, dim=1)
    ),
    "batch_norm": lambda m, h: m.batch(h),
    "grid_sample": grid,
    "fourier": lambda m, h: torch.fft.irfft2(torch.fft.rfft2(h) * 0.5, s=h.shape[2:]) + h,
    "embedding": lambda m, h: h + m.table((h.sigmoid() * 7).long()).mean(-1),
    "bilinear_layer": lambda m, h: image(m.bilinear(tokens(h), tokens(h).flip(1)), h),
    "hyper": lambda m, h: torch.bmm(m.hyper(h.mean((2, 3))).unflatten(1, (h.shape[1], -1)), h.flatten(2)).reshape(
        h.shape
    ),
    "any": lambda m, h: h * (h > 1).any(dim=3, keepdim=True) + h * (h > -1).all(dim=2, keepdim=True).float(),
    "extremes": lambda m, h: (
        (h - h.amin((2, 3), keepdim=True)) / (h.amax((2, 3), keepdim=True) - h.amin((2, 3), keepdim=True) + 1)
        + h.max(1, keepdim=True).values
        - h.median(dim=3, keepdim=True).values
    ),
    "unique_count": lambda m, h: (
        h + (h > 0).sum((2, 3), keepdim=True) * 0.01 + h.count_nonzero((2, 3))[..., None, None] * 0.01
    ),
    "exponents": lambda m, h: (
        torch.exp2(h * 0.5)
        + torch.log1p(h.abs())
        + torch.expm1(h * 0.3)
        + h.abs().add(1).log2()
        + h.abs().add(0.1).rsqrt()
        + h.abs().pow(1.7)
        + torch.pow(1.3, h)
    ),
    "hyperbolic": lambda m, h: (
        torch.sinh(h * 0.5)
        + torch.asinh(h)
        + torch.atan(h)
        + torch.acos(h.tanh() * 0.9)
        + torch.logaddexp(h, h.flip(1))
        + torch.hypot(h, h.flip(2))
    ),
    "movement": lambda m, h: (
        h.movedim(1, -1).contiguous().view(h.shape[0], -1, h.shape[1]).permute(0, 2, 1).reshape_as(h).swapaxes(2, 3)
    ),
    "windows": lambda m, h: F.interpolate(h.unfold(2, 3, 1).mean(-1), h.shape[2:]),
    "double": lambda m, h: (h.double() * 1.1 + 1e-9).float() + h.half().float() * 0.1 + h.bfloat16().float() * 0.01,
    "integers": lambda m, h: (
        h
        + ((h * 4).int() // 3).float() * 0.1
        + torch.div((h * 4).long(), 3, rounding_mode="trunc").float() * 0.1
        + ((h * 9).int() & 3).float() * 0.1
    ),
}


class Odd(nn.Module):
    """A residual network with some of these operations. It takes a class and a vector as conditions."""

    def __init__(self, ops: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.ops, self.width = ops, width
        self.first, self.conv, self.last = (
            nn.Conv2d(2, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, 2, 1),
        )
        self.time, self.label, self.words = nn.Linear(2, width), nn.Embedding(5, width), nn.Linear(3, width)
        self.qkv, self.style, self.hyper = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            nn.Linear(width, width * width),
        )
        self.gru, self.table, self.bilinear = (
            nn.GRU(width, width, batch_first=True),
            nn.Embedding(7, 3),
            nn.Bilinear(width, width, width),
        )
        self.batch = nn.BatchNorm2d(width)
        self.batch.running_mean.uniform_(-1, 1), self.batch.running_var.uniform_(0.5, 2)
        self.register_buffer("square", torch.randn(width, width))

    def forward(self, x: Tensor, time: Tensor, label: Tensor, words: Tensor) -> Tensor:
        angle = time[:, None] / 150
        added = self.time(torch.cat([angle.sin(), angle.cos()], 1)) + self.label(label) + self.words(words)
        h = self.first(x) + added[:, :, None, None]
        for name in self.ops:
            h = h + OPS[name](self, F.group_norm(h, 2)) / math.sqrt(2)
        return self.last(F.silu(h))


def build(ops: tuple[str, ...], width: int, seed: int) -> tuple[nn.Module, Spec]:
    torch.manual_seed(seed)
    conditions = (
        Condition("label", "class", (), "int64", low=0, high=4, null=0.0),
        Condition("words", "text", (3,), "float32", typical=(-2.0, 2.0)),
    )
    return Odd(ops, width).eval(), Spec("odd", (2, 8, 8), conditions, "epsilon", ScheduleSpec("linear"))
