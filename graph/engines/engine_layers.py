"""Read from TensorRT's engine inspector which types the convolutions of an engine multiply.

TensorRT 10 stores the format and type of a tensor in one text ("... row major Int8 format"), 11 in two fields. Either
may be unknown while shapes are dynamic. The type of a layer's weights is always present, and the layer multiplies in
it. The format is from NVIDIA's documentation. Layers without a type are left out: an empty result means unknown, not
none.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

WORDS = {"int8": "int8", "half": "float16", "fp16": "float16", "float": "float32", "fp32": "float32"}
WORD = re.compile("|".join(WORDS), re.IGNORECASE)


def convolutions(layers: bytes) -> dict[str, str]:
    """Return the type that each convolution of an engine multiplies: "int8", "float16", "float32"."""
    try:
        read = msgspec.json.decode(layers)
    except msgspec.DecodeError:
        return {}
    kinds: dict[str, str] = {}
    for layer in read.get("Layers", ()) if isinstance(read, dict) else ():
        if isinstance(layer, dict) and "Convolution" in (layer.get("ParameterType") or layer.get("LayerType") or ""):
            kind = _type_of(layer)
            if kind is not None:
                kinds[str(layer.get("Name", len(kinds)))] = kind
    return kinds


def _type_of(layer: Mapping[str, Any]) -> str | None:
    weights, inputs = layer.get("Weights"), layer.get("Inputs")
    texts = [str(weights.get("Type", ""))] if isinstance(weights, dict) else []
    for tensor in inputs[:1] if isinstance(inputs, list) else ():
        if isinstance(tensor, dict):
            texts += [str(tensor.get(field, "")) for field in ("DataType", "Format/Datatype", "Format")]
    words = (WORD.search(text) for text in texts)
    return next((WORDS[word[0].lower()] for word in words if word), None)
