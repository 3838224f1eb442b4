"""Stand-ins for encoders: no weights, and outputs of the right shapes that depend on inputs and on a seed."""

from typing import Any

import pytest
import torch
from torch.nn.utils import weight_norm

from fewstep.export.tracing.weights.stored_halves import to_float32
from fewstep.graph import widened
from fewstep.pipelines.recording import stand_ins
from fewstep.pipelines.recording.stand_ins import (
    build_on_meta,
    build_small,
    copy_network,
    is_small,
    remember_outputs,
    respond_randomly,
)
from tests.refusals import refuses
from tests.tiny_pipelines import autoencoder, t5

pytest.importorskip("diffusers")
IMAGE = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)


def encoder(seed: int = 0) -> Any:
    return respond_randomly(build_on_meta(autoencoder), "vae", seed)


def moments(network: Any, image: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = network.encode(image).latent_dist.parameters
    return found


def test_an_encoded_picture_has_the_shape_of_the_latents() -> None:
    assert encoder().encode(IMAGE).latent_dist.mode().shape == (1, 4, 8, 8)


def test_the_latents_of_a_picture_are_repeatable() -> None:
    assert torch.equal(moments(encoder(), IMAGE), moments(encoder(), IMAGE))


@pytest.mark.parametrize(("seed", "image"), [(1, IMAGE), (0, -IMAGE)])
def test_the_latents_change_with_the_seed_and_with_the_picture(seed: int, image: torch.Tensor) -> None:
    assert not torch.equal(moments(encoder(), IMAGE), moments(encoder(seed), image))


def test_a_part_that_is_called_alone_returns_values() -> None:
    found = encoder().encoder(IMAGE)
    assert found.shape == (1, 8, 8, 8) and found.device.type == "cpu"


def test_its_parameters_have_no_values() -> None:
    assert all(parameter.is_meta for parameter in encoder().parameters())


def test_it_says_that_it_is_on_the_cpu() -> None:
    assert encoder().device == torch.device("cpu")


def test_a_mask_of_a_text_encoder_is_not_read() -> None:
    network = respond_randomly(build_on_meta(lambda: t5(16)), "text_encoder", 0)
    ids = torch.tensor([[3, 4, 1, 0]])
    assert network(ids, attention_mask=(ids > 0).long())[0].shape == (1, 4, 16)


def test_a_copy_has_the_weights_that_a_module_computes() -> None:
    network = weight_norm(torch.nn.Linear(2, 2))
    copied = copy_network(network)
    x = torch.ones(1, 2)
    assert not network.weight.is_leaf and torch.equal(copied(x), network(x))
    with torch.no_grad():
        network.weight_g.mul_(2)
    assert not torch.equal(copied(x), network(x))


class Counting(torch.nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor, cache: object = None, mask: object = None) -> torch.Tensor:
        self.calls += 1
        return x + 1


def test_outputs_for_the_same_input_are_computed_once() -> None:
    network, x = remember_outputs(Counting()), torch.ones(2)
    network(x).zero_()  # a pipeline may change what it gets
    assert torch.equal(network(x), x + 1) and network.calls == 1


def test_hooks_of_layers_are_called_each_time() -> None:
    layer, seen = Counting(), list[torch.Tensor]()
    network = remember_outputs(torch.nn.Sequential(layer))
    network(torch.ones(2))
    layer.register_forward_hook(lambda module, given, output: seen.append(output))
    network(torch.ones(2))
    assert len(seen) == 1


def test_a_call_with_a_cache_is_computed_each_time() -> None:
    network = remember_outputs(Counting())
    network(torch.ones(2), object()), network(torch.ones(2), object())
    assert network.calls == 2


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        ({"x": torch.ones(1, 2)}, {"x": torch.ones(2, 1)}),
        ({"x": torch.ones(2)}, {"x": torch.ones(2, dtype=torch.float64)}),
        ({"x": torch.ones(2), "cache": True}, {"x": torch.ones(2), "mask": True}),
        ({"x": torch.ones(2), "cache": [2, 3]}, {"x": torch.ones(2), "cache": [23]}),
    ],
)
def test_values_of_other_shapes_types_or_names_are_another_input(
    arguments: dict[str, Any], others: dict[str, Any]
) -> None:
    network = remember_outputs(Counting())
    network(**arguments), network(**others)
    assert network.calls == 2


def test_a_small_autoencoder_returns_random_latents_and_has_its_weights() -> None:
    network = build_small(autoencoder, "vae", 0)
    assert moments(network, IMAGE).shape == (1, 8, 8, 8)
    assert float(moments(network, IMAGE).std()) == pytest.approx(1, abs=0.15)
    assert torch.equal(moments(network, IMAGE), moments(network, IMAGE))
    assert not next(network.parameters()).is_meta


def test_small_encoders_of_different_names_have_different_weights() -> None:
    weights = [build_small(lambda: torch.nn.Linear(2, 2), name, 0).weight for name in ("one", "two")]
    assert not torch.equal(*weights)


class ReadingAutoencoder(torch.nn.Module):
    """An autoencoder whose code reads the values of a picture, which has none without weights."""

    __module__ = "diffusers.models.autoencoders.reading"

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * image if float(image.sum()) > 0 else image


def test_a_small_autoencoder_that_reads_values_computes_its_latents() -> None:
    ones = torch.ones(1, 3, 4, 4)
    assert torch.equal(build_small(ReadingAutoencoder, "vae", 0).encode(ones), 2 * ones)


def test_weights_that_stay_in_16_bits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "SMALL", 1000)
    monkeypatch.setattr(widened, "LEAST_BYTES", 0)
    network = to_float32(torch.nn.Linear(100, 100, bias=False, dtype=torch.bfloat16))
    assert not list(network.parameters()) and not is_small(network)


class Looking(torch.nn.Module):
    """Replaces the embeddings of the places that it finds in its ids."""

    def __init__(self, has_bias: bool = False) -> None:
        super().__init__()
        self.words, self.tower = torch.nn.Embedding(10, 4), torch.nn.Linear(3, 4)
        self.bias = torch.nn.Parameter(torch.zeros(4)) if has_bias else None

    def forward(self, ids: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        rows = [*self.words(ids)[0]]
        for place, token in enumerate(ids[0].tolist()):
            rows[place] = self.tower(picture)[0] if token == 9 else rows[place]
        joined = torch.stack(rows)
        return joined if self.bias is None else joined + self.bias


def test_the_parts_of_a_large_network_that_reads_values_respond() -> None:
    network = respond_randomly(build_on_meta(Looking), "text_encoder", 0)
    first, other = (network(torch.tensor([[1, 9, 1]]), torch.full((1, 3), value)) for value in (0.0, 1.0))
    assert torch.equal(first[[0, 2]], other[[0, 2]]) and not torch.equal(first[1], other[1])


def test_a_large_network_that_reads_values_and_has_own_weights_is_refused() -> None:
    network = respond_randomly(build_on_meta(lambda: Looking(has_bias=True)), "text_encoder", 0)
    with refuses(("text_encoder (Looking) reads the values of its inputs",)):
        network(torch.tensor([[1, 9, 1]]), torch.zeros(1, 3))
