"""A bundle with a text encoder and an autoencoder small enough to compute by hand."""

from pathlib import Path

import msgspec
import numpy as np
from onnx import TensorProto

from fewstep.graph.graph import Graph, Value
from fewstep.runtime.bundle.manifest import AutoencoderEntry, Condition, TextEncoderEntry, Tokens
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle, content_of, entry, node, small, value

X_SHAPE = (1, 4, 4)  # of the tiny bundle
LENGTH, PAD = 6, 0
WORDS = {"[pad]": 0, "[start]": 1, "[end]": 2, "[unknown]": 3, "a": 4, "cat": 5, "dog": 6, "red": 7}
TABLE = np.arange(len(WORDS) * 2, dtype=np.float32).reshape(len(WORDS), 2)  # the embedding of each id
IMAGE = (3, 8, 8)
LATENT, PICTURE = value("latent", "batch", *X_SHAPE), value("image", "batch", *IMAGE)
SCALE = 0.5  # latents are half of what the autoencoder has, and its images their channel three times, enlarged twice


def tokenizer() -> bytes:
    """Words between spaces, in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel(WORDS, unk_token="[unknown]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[start] $A [end]", special_tokens=[("[start]", 1), ("[end]", 2)]
    )
    made.enable_truncation(3)  # the manifest says how long prompts are, not this
    made.enable_padding(length=9)
    return made.to_str().encode()


def text_graph() -> Graph:
    """text = TABLE[ids] * mask."""
    nodes = [
        node("Gather", "table ids", "rows"),
        node("Cast", "mask", "seen", to=TensorProto.FLOAT),
        node("Unsqueeze", "seen last", "column"),
        node("Mul", "rows column", "text"),
    ]
    ids, mask = (value(name, "batch", LENGTH, dtype="int64") for name in ("ids", "mask"))
    return small([ids, mask], [value("text", "batch", LENGTH, 2)], nodes, table=TABLE, last=np.array([2]))


def seeing_graph() -> Graph:
    """text = (TABLE[ids] + picture) * mask, with a picture [2]."""
    nodes = [
        node("Gather", "table ids", "rows"),
        node("Unsqueeze", "picture middle", "row"),
        node("Add", "rows row", "both"),
        node("Cast", "mask", "seen", to=TensorProto.FLOAT),
        node("Unsqueeze", "seen last", "column"),
        node("Mul", "both column", "text"),
    ]
    ids, mask = (value(name, "batch", LENGTH, dtype="int64") for name in ("ids", "mask"))
    constants = {"table": TABLE, "last": np.array([2]), "middle": np.array([1])}
    return small([ids, mask, value("picture", "batch", 2)], [value("text", "batch", LENGTH, 2)], nodes, **constants)


def with_seeing_encoder(bundle: Path, places: tuple[int, int] | None = None) -> Path:
    """Add a text encoder that also reads the condition `picture` [2], and both conditions, which no other graph
    takes. `places`: as in `Tokens.picture`."""
    graph, name = seeing_graph(), "graphs/seeing.onnx"
    (label,) = open_bundle(bundle).manifest.conditions
    more = (Condition("text", "text", (LENGTH, 2), "float32"), Condition("picture", "picture", (2,), "float32"))
    tokens = (Tokens("ids", "graphs/tokenizer.json", LENGTH, PAD, "mask", picture=places),)
    return change_bundle(
        bundle,
        {name: content_of(graph), "graphs/tokenizer.json": tokenizer()},
        conditions=(msgspec.structs.replace(label, default=(0.0,)), *more),
        text=TextEncoderEntry(entry(name, graph, text="condition", picture="condition"), tokens),
    )


def decoder_graph(latent: Value = LATENT, picture: Value = PICTURE) -> Graph:
    """image = x / SCALE in each of three channels, each value in four pixels."""
    nodes = [
        node("Div", "latent scale", "z"),
        node("Concat", "z z z", "channels", axis=1),
        node("Resize", "channels - factors", "image", mode="nearest"),
    ]
    return small([latent], [picture], nodes, scale=SCALE, factors=[1.0, 1.0, 2.0, 2.0])


def encoder_graph(latent: Value = LATENT, picture: Value = PICTURE) -> Graph:
    """x = SCALE * the mean over channels and over each four pixels."""
    nodes = [
        node("AveragePool", "image", "small", kernel_shape=[2, 2], strides=[2, 2]),
        node("ReduceMean", "small axes", "z"),
        node("Mul", "z scale", "latent"),
    ]
    return small([picture], [latent], nodes, scale=SCALE, axes=np.array([1]))


def with_free_autoencoder(bundle: Path) -> Path:
    """Add an autoencoder of x's free height and width to a bundle that has them."""
    ports = (value("latent", "batch", 1, "height", "width"), value("image", "batch", 3, "height*2", "width*2"))
    graphs = {"decoder": decoder_graph(*ports), "encoder": encoder_graph(*ports)}
    entries = [entry(f"graphs/{name}.onnx", graph) for name, graph in graphs.items()]
    contents = {f"graphs/{name}.onnx": content_of(graph) for name, graph in graphs.items()}
    return change_bundle(bundle, contents, autoencoder=AutoencoderEntry(*entries))


def with_companions(bundle: Path) -> Path:
    """Add a condition `text` that no graph takes, a text encoder and an autoencoder to a bundle; its label has a
    default.
    """
    graphs = {"text": text_graph(), "decoder": decoder_graph(), "encoder": encoder_graph()}
    contents = {f"graphs/{name}.onnx": content_of(graph) for name, graph in graphs.items()}
    entries = {name: entry(f"graphs/{name}.onnx", graph, text="condition") for name, graph in graphs.items()}
    (label,) = open_bundle(bundle).manifest.conditions
    return change_bundle(
        bundle,
        {**contents, "graphs/tokenizer.json": tokenizer()},
        conditions=(msgspec.structs.replace(label, default=(0.0,)), Condition("text", "text", (LENGTH, 2), "float32")),
        text=TextEncoderEntry(entries["text"], (Tokens("ids", "graphs/tokenizer.json", LENGTH, PAD, "mask"),)),
        autoencoder=AutoencoderEntry(entries["decoder"], entries["encoder"]),
    )
