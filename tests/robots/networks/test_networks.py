"""Networks of policies, compared with torch's own layers and with the weight names of their trainers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.robots.networks.diffusion_policy import (
    DiffusionPolicy,
    Picture,
    VectorObservation,
    action_units,
    typical_range,
)
from fewstep.robots.networks.resnet import ResNet, group_norm
from fewstep.robots.networks.transformer import PolicyTransformer
from fewstep.robots.networks.unet1d import ConditionalUnet1d, TimeFeatures, from_diffusion_policy
from fewstep.robots.networks.vision import CentreCrop, Resize, SpatialSoftmax

WIDTH = 16


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.eval()


@pytest.fixture(autouse=True)
def no_gradients() -> object:
    with torch.no_grad():
        yield


def torch_layer(kind: type[nn.Module]) -> nn.Module:
    return kind(WIDTH, 2, 4 * WIDTH, activation="gelu", batch_first=True, norm_first=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("condition_layers", [0, 2])
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_transformer_is_torchs_decoder_over_torchs_encoder(condition_layers: int, is_causal: bool) -> None:
    ours = PolicyTransformer(
        3, 8, 2, 5, layers=2, heads=2, width=WIDTH, condition_layers=condition_layers, is_causal=is_causal
    )
    randomise(ours)
    decoder = nn.TransformerDecoder(torch_layer(nn.TransformerDecoderLayer), 2).eval()
    decoder.load_state_dict(ours.decoder.state_dict())
    encoder: nn.Module = ours.encoder
    if condition_layers:
        encoder = nn.TransformerEncoder(torch_layer(nn.TransformerEncoderLayer), 2, enable_nested_tensor=False).eval()
        encoder.load_state_dict(ours.encoder.state_dict())
    x, time, seen = torch.randn(2, 8, 3), torch.tensor([0.0, 50.0]), torch.randn(2, 2, 5)
    known = torch.cat([TimeFeatures(WIDTH)(time)[:, None], ours.cond_obs_emb(seen)], dim=1) + ours.cond_pos_emb
    later = torch.ones(8, 8).triu(1).bool() if is_causal else None  # what torch calls a mask is what is not seen
    unseen = torch.tensor([[s - 1 > t for s in range(3)] for t in range(8)]) if is_causal else None
    decoded = decoder(ours.input_emb(x) + ours.pos_emb, encoder(known), tgt_mask=later, memory_mask=unseen)
    torch.testing.assert_close(ours(x, time, seen), ours.head(ours.ln_f(decoded)), rtol=1e-4, atol=1e-5)


def test_the_time_may_be_the_sequences_first_token() -> None:
    ours = PolicyTransformer(3, 8, 0, 0, layers=2, heads=2, width=WIDTH, is_causal=True, time="sequence")
    randomise(ours)
    encoder = nn.TransformerEncoder(torch_layer(nn.TransformerEncoderLayer), 2, enable_nested_tensor=False).eval()
    encoder.load_state_dict(ours.encoder.state_dict())
    x, time = torch.randn(2, 8, 3), torch.tensor([0.0, 50.0])
    tokens = torch.cat([TimeFeatures(WIDTH)(time)[:, None], ours.input_emb(x)], dim=1) + ours.pos_emb
    expected = ours.head(ours.ln_f(encoder(tokens, mask=torch.ones(9, 9).triu(1).bool())[:, 1:]))
    torch.testing.assert_close(ours(x, time), expected, rtol=1e-4, atol=1e-5)
    changed = x.clone()
    changed[:, 5:] += 1
    torch.testing.assert_close(ours(changed, time)[:, :5], expected[:, :5])  # no action sees later ones


def test_resizing_is_torchs_antialiased_one() -> None:
    x = torch.rand(2, 3, 41, 60)
    for size in ((20, 33), (41, 60), (50, 17)):
        expected = F.interpolate(x, size, mode="bilinear", antialias=True)
        torch.testing.assert_close(Resize((41, 60), size)(x), expected, rtol=0, atol=2e-6)


def test_the_crop_is_in_the_middle_and_rounds_halves_to_even() -> None:
    x = torch.arange(7.0)[:, None] * 10 + torch.arange(9.0)
    assert CentreCrop((7, 9), (4, 4))(x)[0, 0] == 22  # (7 - 4) / 2 = 1.5 -> 2, (9 - 4) / 2 = 2.5 -> 2
    assert CentreCrop((7, 9), (4, 4))(x).shape == (4, 4)
    with pytest.raises(ValueError, match=r"a crop to \[8, 4\] is larger than the images \[7, 9\]"):
        CentreCrop((7, 9), (8, 4))


def test_a_keypoint_is_where_its_map_peaks() -> None:
    softmax = SpatialSoftmax(2, (3, 5), keypoints=2)
    softmax.nets.weight.copy_(torch.eye(2)[:, :, None, None])
    softmax.nets.bias.zero_()
    maps = torch.zeros(1, 2, 3, 5)
    maps[0, 0, 0, 4] = maps[0, 1, 1, 2] = 100.0
    torch.testing.assert_close(softmax(maps), torch.tensor([[[1.0, -1.0], [0.0, 0.0]]]))


def test_resnet_has_torchvisions_size_and_one_vector_a_picture() -> None:
    assert sum(p.numel() for p in ResNet("resnet18").parameters()) == 11_176_512  # torchvision's, less its classifier
    assert sum(p.numel() for p in ResNet("resnet34").parameters()) == 21_284_672
    assert ResNet("resnet18", group_norm).eval()(torch.rand(2, 3, 40, 48)).shape == (2, 512)


def theirs(model: nn.Module, encoder: dict[str, Tensor], numbers: dict[str, tuple[float, float]]) -> dict[str, Tensor]:
    """Return an `ema_model`: weights under diffusion_policy's names, (scale, offset) of each feature, and empty
    entries.
    """
    names = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    if isinstance(model, ConditionalUnet1d):
        back = {".conv1.": ".blocks.0.", ".conv2.": ".blocks.1."}
        for ours, name in back.items():
            names = {each.replace(ours, name): weight for each, weight in names.items()}
        halves = ("down_modules.0.2.", "up_modules.0.2.")
        names = {
            each.replace(".2.", ".2.conv.") if any(half in each for half in halves) else each: weight
            for each, weight in names.items()
        }
    idle = dict.fromkeys(("_dummy_variable", "model._dummy_variable", "mask_generator._dummy_variable"), torch.zeros(0))
    scales = {
        f"normalizer.params_dict.{name}.{kind}": torch.tensor([number])
        for name, pair in numbers.items()
        for kind, number in zip(("scale", "offset"), pair, strict=True)
    }
    stats = {
        f"normalizer.params_dict.{name}.input_stats.{end}": torch.zeros(1) for name in numbers for end in ("min", "max")
    }
    return {**names, **{f"obs_encoder.{name}": weight for name, weight in encoder.items()}, **idle, **scales, **stats}


def test_a_low_dimensional_policy_takes_diffusion_policys_weights() -> None:
    network = randomise(ConditionalUnet1d(2, 2 * 5, (16, 32), time_width=WIDTH))
    weights = theirs(network, {}, {"obs": (2.0, -1.0), "action": (0.5, 0.25)})
    assert "model.down_modules.0.2.conv.weight" in weights and "model.mid_modules.1.blocks.0.block.1.bias" in weights
    fresh = ConditionalUnet1d(2, 2 * 5, (16, 32), time_width=WIDTH)
    policy = DiffusionPolicy(fresh, {"obs": VectorObservation(5)}, observations=2).eval()
    policy.load(weights)
    x, time, raw = torch.randn(3, 8, 2), torch.tensor([0.0, 5.0, 99.0]), torch.rand(3, 2, 5)
    torch.testing.assert_close(policy(x, time, raw), network(x, time, (2 * raw - 1).flatten(1)))
    assert action_units(weights) == ((2.0,), (-0.5,)) and typical_range(weights, "obs") == ((0.0,), (0.0,))
    with pytest.raises(RuntimeError, match="unknown weights"):
        policy.load({**weights, "other.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="no normalisation of 'obs'"):
        policy.load({name: weight for name, weight in weights.items() if "params_dict.obs" not in name})
    with pytest.raises(RuntimeError, match="Missing key"):
        policy.load({name: weight for name, weight in weights.items() if "final_conv" not in name})


@pytest.mark.parametrize("shared", [False, True])
def test_pictures_come_before_numbers_each_by_name(shared: bool) -> None:
    seen = {
        "b": Picture((40, 40), crop=(32, 32)),
        "agent_pos": VectorObservation(2),
        "a": Picture((40, 40), crop=(32, 32)),
    }
    network = PolicyTransformer(2, 8, 2, 2 * 512 + 2, layers=1, heads=2, width=WIDTH)
    randomise(network)
    encoders = {name: randomise(ResNet("resnet18", group_norm)) for name in (("rgb",) if shared else ("a", "b"))}
    weights = {
        f"key_model_map.{name}.{key}": w for name, net in encoders.items() for key, w in net.state_dict().items()
    }
    numbers = {"a": (2.0, -1.0), "b": (2.0, -1.0), "agent_pos": (3.0, 0.0), "action": (1.0, 0.0)}
    policy = DiffusionPolicy(network, seen, 2, shared=shared).eval()
    policy.load(theirs(network, weights, numbers))
    assert policy.names == ("a", "b", "agent_pos")
    x, time = torch.randn(1, 8, 2), torch.tensor([7.0])
    pictures = [
        torch.from_numpy(np.random.default_rng(i).integers(0, 256, (1, 2, 3, 40, 40), np.uint8)) for i in (0, 1)
    ]
    position = torch.rand(1, 2, 2)
    features = [
        encoders["rgb" if shared else name]((picture[0].float() / 255 * 2 - 1)[..., 4:36, 4:36])
        for name, picture in zip(("a", "b"), pictures, strict=True)
    ]
    expected = network(x, time, torch.cat([*features, 3 * position[0]], dim=1)[None])
    torch.testing.assert_close(policy(x, time, *pictures, position), expected, rtol=1e-4, atol=1e-5)


def test_renaming_leaves_other_names_alone() -> None:
    names = ["final_conv.0.block.0.weight", "up_modules.0.2.conv.bias", "mid_modules.0.blocks.1.block.0.weight"]
    renamed = from_diffusion_policy(dict.fromkeys(names, torch.zeros(1)))
    assert list(renamed) == ["final_conv.0.block.0.weight", "up_modules.0.2.bias", "mid_modules.0.conv2.block.0.weight"]
