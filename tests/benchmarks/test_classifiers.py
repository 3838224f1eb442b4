"""The feature extractors: their recipe, and that each graph equals its network."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from benchmarks.classifiers import (
    CIFAR10,
    FASHION_MNIST,
    FEATURES,
    Classifier,
    accuracy,
    batch,
    card,
    in_model_range,
    write_graph,
)
from fewstep.models.training import generator_of

ROOT = Path(__file__).parents[2]


def classifier(data):
    torch.manual_seed(0)
    return Classifier(data.x_shape, data.classes, data.width).eval()


@pytest.mark.slow
@pytest.mark.parametrize("data", (FASHION_MNIST, CIFAR10), ids=lambda data: data.name)
def test_the_graph_is_the_network_for_any_batch(data, tmp_path):
    network = classifier(data)
    write_graph(network, data.x_shape, tmp_path / "cnn.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "cnn.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        x = torch.rand(count, *data.x_shape) * 2 - 1
        with torch.no_grad():
            expected = [output.numpy() for output in network(x)]
        found = session.run(["features", "logits"], {"image": x.numpy()})
        for ours, theirs in zip(found, expected, strict=True):
            assert np.abs(ours - theirs).max() < 5e-3 * np.abs(theirs).max()  # weights in float16
    model = onnx.load(tmp_path / "cnn.onnx")
    floats = {t.data_type for t in model.graph.initializer} - {onnx.TensorProto.INT64}
    assert floats == {onnx.TensorProto.FLOAT16} and not any(node.metadata_props for node in model.graph.node)
    assert found[0].shape == (5, FEATURES) and found[1].shape == (5, data.classes)


def test_a_batch_is_mirrored_and_shifted_by_a_pixel_at_most():
    images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    images[0, 0, 10, 3] = 255
    places = set()
    for step in range(30):
        x, _ = batch(images, torch.zeros(1, dtype=torch.long), 8, 1, generator_of(0, step))
        assert x.shape == (8, 1, 28, 28)
        places |= {tuple(place) for place in (x[:, 0] > 0).nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in (9, 10, 11) for column in (2, 3, 4, 23, 24, 25)}


def test_accuracy_counts_the_right_ones():
    network = classifier(FASHION_MNIST)
    images = torch.randint(256, (40, 1, 28, 28), generator=generator_of(0, 0)).to(torch.uint8)
    with torch.no_grad():
        guesses = network(in_model_range(images))[1].argmax(1)
    labels = torch.where(torch.arange(40) < 10, guesses, (guesses + 1) % 10)
    assert accuracy(network, images, labels) == pytest.approx(0.25)


def test_the_cards_tell_the_command_and_the_accuracy():
    text = card(FASHION_MNIST, 60_000, 0.9345, 290_000, 590_000)
    assert "93.45 %" in text and "9000 steps of 64 (9.6 passes)" in text and "[B, 1, 28, 28]" in text
    for data in (FASHION_MNIST, CIFAR10):
        shipped = (ROOT / f"measure/distances/extractors/{data.name}.md").read_text()
        made = card(data, 1_000 * int(re.search(r"all (\d+) 000", shipped)[1]), 0.5, 1, 1)
        same = ("| data |", "| command |", "| training |", "| input |", "| outputs |")
        assert [line for line in shipped.splitlines() if line.startswith(same)] == [
            line for line in made.splitlines() if line.startswith(same)
        ]
