"""An extension that converts ONNX's DFT to OpenVINO operations correctly.

Since opset 20 the axis is an input. Without the extension, OpenVINO 2026.4.1 ignores this input and uses axis 1 (which
differs from onnxruntime 1.31.1 by 100 % and more, on the CPU). Its one-sided transform of real numbers also keeps the
last axis, of length 1, and the inverse transform does not return that axis.

The default axis is 1 in opset 17 and -2 since opset 20. An extension cannot read a node's opset.
"""

from typing import Any


def dft_extension() -> Any:
    """Return the extension of an `openvino.Core` that converts DFT of any opset.

    Reading a graph fails if an axis is not a constant, or if it is missing and its default depends on the opset.
    """
    from openvino.frontend.onnx import ConversionExtension

    return ConversionExtension("DFT", "", _convert_dft)


def _convert_dft(node: Any) -> Any:
    """Convert an ONNX DFT of real numbers [..., 1] or complex numbers [..., 2] to OpenVINO operations. Return their
    outputs."""
    from openvino import opset9 as ops

    ports = (node.get_input(place) for place in range(node.get_input_size()))
    inputs: list[Any] = [None if port.get_node().get_type_name() == "NullNode" else port for port in ports]
    signal, shape = inputs[0], inputs[0].get_partial_shape()
    inverse, onesided = (node.get_attribute(name, 0) for name in ("inverse", "onesided"))
    if inputs[2:] not in ([], [None]):
        axis = inputs[2].get_node().data.item()
    elif node.has_attribute("axis") or len(shape) == 3:  # with three axes, both defaults are the same axis
        axis = node.get_attribute("axis", 1)
    else:
        raise ValueError(f"a DFT of {len(shape)} axes does not name its axis")
    last, axes = len(shape) - 1, [axis % len(shape)]
    lengths = [ops.reshape(value, [1], False) for value in inputs[1:2] if value is not None]
    is_real = shape[last].is_static and shape[last].get_length() == 1
    if onesided and not inverse:
        return ops.rdft(ops.squeeze(signal, [last]), axes, *lengths).outputs()
    if is_real:
        signal = ops.concat([signal, ops.multiply(signal, signal.get_element_type().to_dtype().type(0))], last)
    if onesided:
        return ops.unsqueeze(ops.irdft(signal, axes, *lengths), [last]).outputs()
    return (ops.idft if inverse else ops.dft)(signal, axes, *lengths).outputs()
