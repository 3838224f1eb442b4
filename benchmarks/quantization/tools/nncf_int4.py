"""NNCF's 4-bit weights: `python nncf_int4.py FOLDER SETTING OUTPUT`, in an environment that has nncf and openvino.

FOLDER has float.onnx, products.json with the nodes of the products whose weights are in few bits, and feeds/*.npz with
one row each, by input. OUTPUT is an .npz: by the number of each product, the value of its weight [inputs, outputs] in
float32, and under "bytes" the bytes of all of them. Every setting has asymmetric groups of 128 inputs, or of the next
power of 2 that divides the inputs. nearest: without data. tuned: scale estimation and GPTQ, as its documentation
advises for quality. awq: the same and AWQ. tuned-0.8: 80 % of the weights in 4 bits, and the others in 8, chosen by
its measure of sensitivity. Prints its version.
"""

import json
import sys
from pathlib import Path
from typing import Any

import nncf  # type: ignore[import-not-found, unused-ignore]
import numpy as np
import openvino

MOST = 128  # rows of the data, its default
TUNED = {"scale_estimation": True, "gptq": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "nearest": {},
    "tuned": TUNED,
    "awq": {**TUNED, "awq": True},
    "tuned-0.9": {**TUNED, "ratio": 0.9},
    "tuned-0.8": {**TUNED, "ratio": 0.8},
}
WEIGHTED = ("MatMul", "Convolution", "GroupConvolution", "Gather")


def count_bytes(node: Any) -> float:
    """Return the bytes of the constants from which a value is computed."""
    if node.get_type_name() == "Constant":
        bits: int = node.get_element_type().bitwidth
        return float(np.prod(node.get_output_shape(0))) * bits / 8
    return sum(count_bytes(value.get_node()) for value in node.input_values())


def turn_weight(product: Any) -> None:
    """Store the weight of a product as [outputs, inputs], the only form for which GPTQ of NNCF is written."""
    weight = product.input_value(1).get_node()
    turned = openvino.opset13.constant(np.ascontiguousarray(weight.data.T), name=weight.get_friendly_name())
    product.input(1).replace_source_output(turned.output(0))
    product.set_attribute("transpose_b", True)


def main(folder: Path, setting: str, output: Path) -> None:
    products = json.loads((folder / "products.json").read_text())
    core = openvino.Core()
    model = core.read_model(folder / "float.onnx")
    others = [node for node in model.get_ops() if node.get_type_name() in WEIGHTED]
    for node in others:
        if node.get_friendly_name() in products:
            turn_weight(node)
    model.validate_nodes_and_infer_types()
    chosen = {"ratio": 1.0, **SETTINGS[setting]}
    if setting != "nearest":
        rows = [dict(np.load(path)) for path in sorted((folder / "feeds").glob("*.npz"))]
        rows = rows[:: -(-len(rows) // MOST)]
        chosen |= {"dataset": nncf.Dataset(rows), "subset_size": len(rows)}
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=128,
        all_layers=True,
        ignored_scope=nncf.IgnoredScope(
            names=[node.get_friendly_name() for node in others if node.get_friendly_name() not in products],
            validate=False,
        ),
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
        **chosen,
    )
    weights, total = dict[str, Any](), 0.0
    for node in compressed.get_ops():
        if node.get_friendly_name() in products and node.get_type_name() == "MatMul":
            source = node.input_value(1)
            value = core.compile_model(openvino.Model([openvino.opset13.result(source)], []), "CPU")([])[0]
            turned = value.T if node.get_attributes().get("transpose_b") else value
            weights[str(products.index(node.get_friendly_name()))] = turned.astype(np.float32)
            total += count_bytes(source.get_node())
    if len(weights) != len(products):
        raise SystemExit(f"{len(products) - len(weights)} products are not in the compressed model")
    with output.open("wb") as file:  # savez would add .npz to the name
        np.savez(file, bytes=total, **weights)
    print(f"nncf {nncf.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
