"""Small classifiers whose features compare sets of samples: the named extractors of `fewstep measure`.

    python -m benchmarks.classifiers fashion-mnist-cnn --work FOLDER

trains one, by cross entropy with mirrored and shifted images, and leaves its ONNX graph and its card in the folder. The
rest is `fewstep.models.training`. Distances between sets of samples are taken between the features
(`fewstep.measure.distances.frechet`). `fewstep measure` needs no torch for them: the graphs alone are shipped, in
`measure/distances/extractors`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.options import parser_of
from fewstep.models.cifar10 import data as cifar10
from fewstep.models.fashion_mnist import data as fashion_mnist
from fewstep.models.fashion_mnist.unet import CLASSES
from fewstep.models.training import Recipe, train
from fewstep.models.weights import load_weights

FEATURES = 64  # few compared with the samples of a distance (2 000), so that their covariance is well determined
DROPOUT = 0.3  # of what the features are made from, in training
SMOOTHING = 0.05  # of the labels

Images = NDArray[np.uint8]
Read = Callable[[Path | None, str], tuple[Images, Images]]  # images [N, C, H, W] and labels [N] of a split


@dataclass(frozen=True)
class Classified:
    """A data set and the classifier that is trained on it."""

    name: str  # of the extractor
    title: str  # of the data
    about: str  # what its card says of them: reference, licence
    x_shape: tuple[int, int, int]
    classes: int
    width: int  # channels of the first convolution
    shift: int  # pixels that an image is moved by, at most, in each direction
    read: Read
    recipe: Recipe
    command: str


def _grey(folder: Path | None, split: str) -> tuple[Images, Images]:
    images, labels = fashion_mnist.read(folder, split)
    return images[:, None], labels


FASHION_MNIST = Classified(
    *("fashion-mnist-cnn", "Fashion-MNIST", "(Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), MIT licence"),
    *((1, 28, 28), len(CLASSES)),
    width=32,
    shift=1,
    read=_grey,
    recipe=Recipe(steps=9_000, batch=64, rate=1e-3, seed=0),
    command="python -m benchmarks.classifiers fashion-mnist-cnn --work FOLDER",
)
CIFAR10 = Classified(
    *("cifar10-cnn", "CIFAR-10"),
    "(Krizhevsky 2009), whose authors state no licence and ask that the report be cited",
    *((3, 32, 32), len(cifar10.CLASSES)),
    width=48,
    shift=3,
    read=cifar10.read,
    recipe=Recipe(steps=8_000, batch=64, rate=1e-3, seed=0),
    command="python -m benchmarks.classifiers cifar10-cnn --work FOLDER --data FOLDER",
)
CLASSIFIED = {each.name: each for each in (FASHION_MNIST, CIFAR10)}


class Classifier(nn.Module):
    """Images [B, *x_shape] in [-1, 1] -> features [B, 64], logits [B, classes]: convolutions without normalisation."""

    def __init__(self, x_shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(x_shape[0], width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.conv4 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.features = nn.Linear(2 * width * (x_shape[1] // 4) * (x_shape[2] // 4), FEATURES)
        self.logits = nn.Linear(FEATURES, classes)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv3(F.relu(self.conv2(h)))), 2)
        h = F.relu(self.conv4(h)).flatten(1)
        features = self.features(F.dropout(h, DROPOUT, self.training))
        return features, self.logits(F.relu(features))


def batch(images: Tensor, labels: Tensor, size: int, shift: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images [size, C, H, W] in [-1, 1], half of them mirrored, all with the same shift, and labels [size],
    from uint8 images.
    """
    rows = torch.randint(len(images), (size,), generator=generator)
    mirrored = torch.rand(size, 1, 1, 1, generator=generator) < 0.5
    down, right = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
    x = in_model_range(images[rows])
    x = F.pad(torch.where(mirrored, x.flip(3), x), (shift,) * 4, value=-1.0)
    height, width = images.shape[2:]
    return x[:, :, down : down + height, right : right + width], labels[rows]


def in_model_range(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of uint8 images whose largest logit is that of their label."""
    guesses = torch.cat([network(in_model_range(part))[1].argmax(1) for part in images.split(500)])
    return (guesses == labels).float().mean().item()


def write_graph(network: Classifier, x_shape: tuple[int, int, int], path: Path) -> None:
    """Write ONNX, opset 20: `image` [batch, *x_shape] -> `features`, `logits`. Weights are stored as float16."""
    import onnx
    from onnx import helper, numpy_helper

    program = torch.onnx.export(
        network,
        (torch.zeros(2, *x_shape),),
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


def card(data: Classified, images: int, share: float, parameters: int, size: int) -> str:
    """Return the card. images: of training. share: of correct test images. size: of the graph in bytes."""
    recipe = data.recipe
    passes = recipe.steps * recipe.batch / images
    return f"""# {data.name}

A classifier of {data.title}, {parameters / 1e6:.2f} M parameters, whose {FEATURES} features (before the last ReLU)
compare sets of samples. A distance between its features means something only next to another one of the same extractor.

| | |
|---|---|
| data | {data.title}, all {images // 1000} 000 training images {data.about} |
| accuracy | {100 * share:.2f} % of the 10 000 test images, weights as shipped |
| command | `{data.command}` |
| training | {recipe.steps} steps of {recipe.batch} ({passes:.1f} passes), seed {recipe.seed}, bfloat16 |
| input | `image` float32 [B, {", ".join(map(str, data.x_shape))}] in [-1, 1] |
| outputs | `features` [B, {FEATURES}], `logits` [B, {data.classes}] |
| graph | `{data.name}.onnx`, weights float16, {size / 1e6:.2f} MB |
"""


def tensors(data: Classified, folder: Path | None, split: str) -> tuple[Tensor, Tensor]:
    images, labels = data.read(folder, split)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()).long()


def main() -> None:
    """Write the ONNX graph and its card into the work folder."""
    parser = parser_of(__doc__)
    parser.add_argument("name", choices=CLASSIFIED)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, help=f"folder of CIFAR-10: {cifar10.HOW_TO_GET}")
    given = parser.parse_args()
    data = CLASSIFIED[given.name]
    images, labels = tensors(data, given.data, "train")

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        x, label = batch(images, labels, data.recipe.batch, data.shift, generator)
        return F.cross_entropy(network(x)[1].float(), label, label_smoothing=SMOOTHING)

    def network() -> Classifier:
        return Classifier(data.x_shape, data.classes, data.width)

    torch.manual_seed(data.recipe.seed)
    weights, graph = f"{data.name}.safetensors", given.work / f"{data.name}.onnx"
    train(network(), loss, data.recipe, given.work, weights)
    trained = load_weights(network(), given.work / weights)
    write_graph(trained, data.x_shape, graph)
    parameters = sum(tensor.numel() for tensor in trained.parameters())
    share = accuracy(trained, *tensors(data, given.data, "test"))
    text = card(data, len(images), share, parameters, graph.stat().st_size)
    graph.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
