"""Weights of a mapped file: the same values, released after their layer, and recognized as the file's in a graph."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.weights import mapped_weights
from fewstep.graph.files import weights

SIZE = 64


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, torch.Tensor]:
    made = {"weight": torch.randn(SIZE, SIZE), "bias": torch.randn(SIZE), "half": torch.randn(SIZE, SIZE).half()}
    save_file(made, tmp_path / "model.safetensors")
    return made


def linear(tensors: dict[str, torch.Tensor], folder: Path) -> torch.nn.Linear:
    layer = torch.nn.Linear(SIZE, SIZE)
    layer.load_state_dict(
        {"bias": tensors["bias"], **mapped_weights.map_tensors(folder / "model.safetensors")}, assign=True
    )
    return layer.requires_grad_(False)


def test_large_floats_are_mapped_and_others_are_not(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    found = mapped_weights.map_tensors(tmp_path / "model.safetensors")
    assert list(found) == ["weight"] and torch.equal(found["weight"], tensors["weight"])
    for array in (found["weight"].numpy(), found["weight"].numpy().T):
        assert weights.place_of(array) is None
        own = mapped_weights.find_mapped(array)
        assert own.flags.c_contiguous == array.flags.c_contiguous and np.array_equal(own, array)
        root = own
        while isinstance(root.base, np.ndarray):
            root = root.base
        assert isinstance(root, np.memmap)
    own = np.zeros(3)
    assert mapped_weights.find_mapped(own) is own


def test_a_layer_lets_its_weights_go_when_it_has_run(
    tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, gone = linear(tensors, tmp_path), list[int]()
    mapped_weights.release_after_use(layer)
    release = weights.release_array
    monkeypatch.setattr(weights, "release_array", lambda array: (gone.append(array.nbytes), release(array)))
    x = torch.randn(2, SIZE)
    for count in (1, 2):  # they return when they are read again
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, tensors["weight"], tensors["bias"]))
        assert gone == [4 * SIZE**2] * count


class Unread(torch.nn.Module):
    """A network with a layer whose result is not used."""

    def __init__(self, used: torch.nn.Module, unread: torch.nn.Module) -> None:
        super().__init__()
        self.used, self.unread = used, unread

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.unread(x)
        return self.used(x)


def test_weights_that_nothing_reads_are_not_kept(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """onnxscript remembers the last graph that it saw."""
    network = Unread(torch.nn.Linear(SIZE, 1).requires_grad_(False), linear(tensors, tmp_path))
    held = weakref.ref(network.unread.weight)
    graph, program = capture(network, (torch.randn(3, SIZE),), [{0: torch.export.Dim("batch")}], ["x"], ["v"])
    del network, program
    gc.collect()
    assert held() is None and len(graph.constants) == 2
