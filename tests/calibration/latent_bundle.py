"""A bundle with a text encoder and an autoencoder, in each of which two layers can be in int8."""

from hashlib import sha256
from pathlib import Path

import numpy as np

from fewstep.graph.graph import Array, Graph
from fewstep.runtime.bundle.manifest import AutoencoderEntry, Condition, TextEncoderEntry, Tokens
from tests.bundles import content_of, entry, write_graphs
from tests.calibration.precision.test_stored_weights import mixer
from tests.calibration.test_calibrate import SCHEDULE
from tests.onnx_text import graph_of_text
from tests.runtime.text_bundle import LENGTH, PAD, tokenizer

WIDTH, ROWS = 32, 512
PROMPTS = "a cat\na red dog\ndog\na red cat\n"
CONV = "Conv<pads=[1, 1, 1, 1]>"


def _layers(seed: int, *shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    fans = [np.prod(shape[1:]) if len(shape) > 2 else shape[0] for shape in shapes]
    weights = [rng.standard_normal(shape) * (1.5 / fan) ** 0.5 for shape, fan in zip(shapes, fans, strict=True)]
    return {f"w{i}": weight.astype(np.float32) for i, weight in enumerate(weights)}


def text_encoder() -> Graph:
    """text [LENGTH, WIDTH] from ids: a table, and three products."""
    table = np.random.default_rng(5).standard_normal((ROWS, WIDTH)).astype(np.float32)
    text = f"""(int64[batch, {LENGTH}] ids) => (float[batch, {LENGTH}, {WIDTH}] text) {{
        e = Gather(table, ids) p0 = MatMul(e, w0) a0 = Tanh(p0) p1 = MatMul(a0, w1) a1 = Tanh(p1)
        p2 = MatMul(a1, w2) text = Tanh(p2)
    }}"""
    return graph_of_text(text, table=table, **_layers(6, *[(WIDTH, WIDTH)] * 3))


def prologue() -> Graph:
    """row = 1 + time / 1000 + the mean of the text."""
    text = f"""(float[batch] time, float[batch, {LENGTH}, {WIDTH}] text) => (float[batch, 1, 1, 1] row) {{
        mean = ReduceMean<keepdims=0>(text, axes) part = Mul(time, thousandth) both = Add(mean, part)
        more = Add(both, one) row = Reshape(more, column)
    }}"""
    numbers = {"axes": np.array([1, 2]), "column": np.array([-1, 1, 1, 1])}
    return graph_of_text(text, **numbers, thousandth=1e-3, one=np.float32(1))


def convolutions(given: str, returned: str, channels: tuple[int, ...], seed: int) -> Graph:
    """Convolutions with Relu between them."""
    shapes = [(out, into, 3, 3) for into, out in zip(channels[:-1], channels[1:], strict=True)]
    layers = " ".join(f"c{i} = {CONV}(a{i}, w{i}) a{i + 1} = Relu(c{i})" for i in range(len(shapes) - 1))
    text = f"""(float[batch, {channels[0]}, 8, 8] {given}) => (float[batch, {channels[-1]}, 8, 8] {returned}) {{
        a0 = Identity({given}) {layers} c = {CONV}(a{len(shapes) - 1}, w{len(shapes) - 1}) {returned} = Tanh(c)
    }}"""
    return graph_of_text(text, **_layers(seed, *shapes))


def write_latent_bundle(folder: Path, decoder: Graph | None = None) -> Path:
    """Write the bundle, and prompts.txt with four prompts in the same folder. With a decoder of its own, it has no
    encoder of images."""
    content = tokenizer()
    file = f"graphs/tokenizer-{sha256(content).hexdigest()[:12]}.json"
    graphs = {
        "text": text_encoder(),
        "decoder": decoder or convolutions("latent", "image", (1, 32, 32, 32, 3), 7),
        "encoder": convolutions("image", "latent", (3, 32, 32, 32, 1), 8),
    }
    roles = {"text": "condition", "video": "video", "sound": "sound"}
    entries = {name: entry(f"graphs/{name}.onnx", graph, **roles) for name, graph in graphs.items()}
    (folder.parent / "prompts.txt").write_text(PROMPTS)
    return write_graphs(
        folder,
        {"body": mixer(), "prologue": prologue()},
        {"float32": {}},
        files={f"graphs/{name}.onnx": content_of(graph) for name, graph in graphs.items()} | {file: content},
        conditions=(Condition("text", "text", (LENGTH, WIDTH), "float32", null=0.0),),
        prologue=entry("graphs/prologue.onnx", prologue(), text="condition"),
        prediction="sample",
        schedule=SCHEDULE,
        text=TextEncoderEntry(entries["text"], (Tokens("ids", file, LENGTH, PAD),)),
        autoencoder=AutoencoderEntry(entries["decoder"], entries["encoder"] if decoder is None else None),
    )
