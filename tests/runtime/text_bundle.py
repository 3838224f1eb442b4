"""A bundle with a text encoder and an autoencoder small enough to compute by hand."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fewstep.runtime.bundle.manifest import (
    AutoencoderEntry,
    Condition,
    GraphEntry,
    Manifest,
    TensorEntry,
    TextEncoderEntry,
    Tokens,
)
from fewstep.runtime.bundle.reading import open_bundle

X_SHAPE = (1, 4, 4)  # of the tiny bundle
LENGTH, PAD = 6, 0
WORDS = {"[pad]": 0, "[start]": 1, "[end]": 2, "[unknown]": 3, "a": 4, "cat": 5, "dog": 6, "red": 7}
TABLE = np.arange(len(WORDS) * 2, dtype=np.float32).reshape(len(WORDS), 2)  # the embedding of each id
IMAGE = (3, 8, 8)
SCALE = 0.5  # latents are half of what the autoencoder has, and its images their channel three times, enlarged twice


def model(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> bytes:
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return made.SerializeToString()


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


def text_graph() -> bytes:
    """text = TABLE[ids] * mask."""
    ids, mask = (helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", LENGTH]) for n in ("ids", "mask"))
    return model(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["seen", "last"], ["column"]),
            helper.make_node("Mul", ["rows", "column"], ["text"]),
        ],
        [ids, mask],
        [helper.make_tensor_value_info("text", TensorProto.FLOAT, ["batch", LENGTH, 2])],
        {"table": TABLE, "last": np.array([2])},
    )


def decoder_graph() -> bytes:
    """image = x / SCALE in each of three channels, each value in four pixels."""
    return model(
        [
            helper.make_node("Div", ["latent", "scale"], ["z"]),
            helper.make_node("Concat", ["z", "z", "z"], ["channels"], axis=1),
            helper.make_node("Resize", ["channels", "", "factors"], ["image"], mode="nearest"),
        ],
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", *X_SHAPE])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *IMAGE])],
        {"scale": np.float32(SCALE), "factors": np.array([1, 1, 2, 2], np.float32)},
    )


def encoder_graph() -> bytes:
    """x = SCALE * the mean over channels and over each four pixels."""
    return model(
        [
            helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("ReduceMean", ["small", "axes"], ["z"]),
            helper.make_node("Mul", ["z", "scale"], ["latent"]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *IMAGE])],
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", *X_SHAPE])],
        {"scale": np.float32(SCALE), "axes": np.array([1])},
    )


def with_companions(bundle: Path) -> Path:
    """Give a bundle a condition `text` that no graph takes, a text encoder, an autoencoder; its label has a default."""
    contents = {
        "graphs/text.onnx": text_graph(),
        "graphs/tokenizer.json": tokenizer(),
        "graphs/decoder.onnx": decoder_graph(),
        "graphs/encoder.onnx": encoder_graph(),
    }
    for name, content in contents.items():
        (bundle / name).write_bytes(content)
    latent, image = (
        TensorEntry("latent", "latent", ("batch", *X_SHAPE)),
        TensorEntry("image", "image", ("batch", *IMAGE)),
    )
    ids, mask = (TensorEntry(name, name, ("batch", LENGTH), "int64") for name in ("ids", "mask"))  # type: ignore[arg-type]
    text = TensorEntry("text", "condition", ("batch", LENGTH, 2))
    former = open_bundle(bundle).manifest
    (label,) = former.conditions
    made = msgspec.structs.replace(
        former,
        conditions=(msgspec.structs.replace(label, default=(0.0,)), Condition("text", "text", (LENGTH, 2), "float32")),
        text=TextEncoderEntry(
            GraphEntry("graphs/text.onnx", (ids, mask), (text,)),
            (Tokens("ids", "graphs/tokenizer.json", LENGTH, PAD, "mask"),),
        ),
        autoencoder=AutoencoderEntry(
            GraphEntry("graphs/decoder.onnx", (latent,), (image,)),
            GraphEntry("graphs/encoder.onnx", (image,), (latent,)),
        ),
        files={**former.files, **{name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}},
    )
    return write(bundle, made)


def write(bundle: Path, manifest: Manifest) -> Path:
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return bundle
