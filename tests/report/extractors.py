"""Feature extractors small enough to compute by hand."""

import onnx
from onnx import TensorProto, helper, numpy_helper


def write_extractor(path, matrix, outputs=("features",), shape=(1, 8, 8)):
    """Write an extractor with features = flattened x times `matrix` [pixels, D]; further outputs are copies."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "m"], [outputs[0]])]
    nodes += [helper.make_node("Identity", [outputs[0]], [name]) for name in outputs[1:]]
    graph = helper.make_graph(
        nodes,
        "extractor",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", matrix.shape[1]]) for name in outputs],
        [numpy_helper.from_array(matrix.astype("f4"), "m")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path
