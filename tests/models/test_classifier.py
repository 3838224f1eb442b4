"""The feature extractor: its recipe, and that its graph is the network."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fewstep.models.fashion_mnist.classifier import FEATURES, Classifier
from fewstep.models.fashion_mnist.train_classifier import accuracy, batch, card, write_graph
from fewstep.models.training import Recipe, generator_of


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Classifier().eval()


def test_the_graph_is_the_network_for_any_batch(network, tmp_path):
    write_graph(network, tmp_path / "cnn.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "cnn.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        x = torch.rand(count, 1, 28, 28) * 2 - 1
        with torch.no_grad():
            expected = [output.numpy() for output in network(x)]
        found = session.run(["features", "logits"], {"image": x.numpy()})
        for ours, theirs in zip(found, expected, strict=True):
            assert np.abs(ours - theirs).max() < 5e-3 * np.abs(theirs).max()  # weights in float16
    model = onnx.load(tmp_path / "cnn.onnx")
    floats = {t.data_type for t in model.graph.initializer} - {onnx.TensorProto.INT64}
    assert floats == {onnx.TensorProto.FLOAT16} and not any(node.metadata_props for node in model.graph.node)
    assert found[0].shape == (5, FEATURES)


def test_a_batch_is_mirrored_and_shifted_by_a_pixel_at_most():
    images = torch.full((1, 1, 28, 28), -1.0)
    images[0, 0, 10, 3] = 1.0
    places = set()
    for step in range(30):
        x, _ = batch(images, torch.zeros(1, dtype=torch.long), 8, generator_of(0, step))
        assert x.shape == (8, 1, 28, 28)
        places |= {tuple(place) for place in (x[:, 0] > 0).nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in (9, 10, 11) for column in (2, 3, 4, 23, 24, 25)}


def test_accuracy_counts_the_right_ones(network):
    x = torch.rand(40, 1, 28, 28)
    with torch.no_grad():
        guesses = network(x)[1].argmax(1)
    labels = torch.where(torch.arange(40) < 10, guesses, (guesses + 1) % 10)
    assert accuracy(network, x, labels) == pytest.approx(0.25)


def test_the_card_tells_the_command_and_the_accuracy():
    text = card(Recipe(steps=100, batch=60, rate=1e-3, seed=0), 6_000, 0.9345, 290_000, 590_000)
    assert "93.45 %" in text and "--rate 0.001`" in text and "100 steps of 60 (1.0 passes)" in text
