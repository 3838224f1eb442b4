"""Train the feature extractor: `python -m fewstep.models.fashion_mnist.train_classifier --work FOLDER`.

Cross entropy with mirrored and shifted images; the rest is `fewstep.models.training`. Ends with the ONNX graph and its
card in the work folder; `calibration/evaluation/extractors` holds a copy of both.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.classifier import FEATURES, GRAPH, WEIGHTS, Classifier
from fewstep.models.fashion_mnist.unet import IMAGE_SHAPE
from fewstep.models.training import Recipe, options, recipe_of, train
from fewstep.models.weights import load_weights

SHIFT = 1  # pixels, at most, in each direction
SMOOTHING = 0.05  # of the labels


def batch(images: Tensor, labels: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images [size, 1, 28, 28], half of them mirrored, all shifted alike; labels [size]."""
    rows = torch.randint(len(images), (size,), generator=generator)
    mirrored = torch.rand(size, 1, 1, 1, generator=generator) < 0.5
    down, right = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    x = torch.where(mirrored, images[rows].flip(3), images[rows])
    height, width = x.shape[2:]
    return F.pad(x, (SHIFT,) * 4, value=-1.0)[:, :, down : down + height, right : right + width], labels[rows]


@torch.no_grad()
def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is their label's."""
    guesses = torch.cat([network(part)[1].argmax(1) for part in images.split(500)])
    return (guesses == labels).float().mean().item()


def write_graph(network: Classifier, path: Path) -> None:
    """ONNX, opset 20: `image` [batch, 1, 28, 28] -> `features`, `logits`. Weights are stored as float16."""
    import onnx
    from onnx import helper, numpy_helper

    program = torch.onnx.export(
        network,
        (torch.zeros(2, *IMAGE_SHAPE),),
        input_names=["image"],
        output_names=["features", "logits"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        opset_version=20,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    graph = model.graph
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            graph.initializer.remove(tensor)
            stored = f"{tensor.name}_float16"
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), stored))
            graph.node.insert(0, helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT))
    for node in graph.node:
        del node.metadata_props[:]  # where in whose source files each node was traced
        node.doc_string = ""
    del graph.value_info[:], graph.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def card(recipe: Recipe, images: int, share: float, parameters: int, size: int) -> str:
    passes = recipe.steps * recipe.batch / images
    return f"""# fashion-mnist-cnn

A classifier of Fashion-MNIST, {parameters / 1e6:.2f} M parameters, whose {FEATURES} features (before the last ReLU)
compare sets of samples. A distance between its features means something only beside another one of the same extractor.

| | |
|---|---|
| data | Fashion-MNIST, all 60 000 training images (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), MIT licence |
| accuracy | {100 * share:.2f} % of the 10 000 test images, weights as shipped |
| command | `python -m fewstep.models.fashion_mnist.train_classifier --work FOLDER --rate {recipe.rate:g}` |
| training | {recipe.steps} steps of {recipe.batch} ({passes:.1f} passes), seed {recipe.seed}, bfloat16 |
| input | `image` float32 [B, 1, 28, 28] in [-1, 1] |
| outputs | `features` [B, {FEATURES}], `logits` [B, 10] |
| graph | `{GRAPH}`, weights float16, {size / 1e6:.2f} MB |
"""


def main() -> None:
    arguments = options(__doc__, data=data.DEBIAN_FOLDER, data_help="folder of the four idx files", steps=9_000)

    def tensors(split: str) -> tuple[Tensor, Tensor]:
        images, labels = data.read(arguments.data, split)
        return torch.from_numpy(images.copy())[:, None].float() / 127.5 - 1, torch.from_numpy(labels.copy()).long()

    images, labels = tensors("train")

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        x, label = (tensor.to(arguments.device) for tensor in batch(images, labels, arguments.batch, generator))
        return F.cross_entropy(network(x)[1].float(), label, label_smoothing=SMOOTHING)

    torch.manual_seed(arguments.seed)
    train(Classifier(), loss, arguments, WEIGHTS)
    network = load_weights(Classifier(), arguments.work / WEIGHTS)
    write_graph(network, arguments.work / GRAPH)
    parameters = sum(tensor.numel() for tensor in network.parameters())
    size = (arguments.work / GRAPH).stat().st_size
    text = card(recipe_of(arguments), len(images), accuracy(network, *tensors("t10k")), parameters, size)
    (arguments.work / GRAPH).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
