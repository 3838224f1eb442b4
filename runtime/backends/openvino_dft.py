"""The Fourier transform as OpenVINO is told to convert it.

OpenVINO 2026.4.1 by itself ignores an axis that is an input, as it is since opset 20, and takes axis 1 (differences of
100 % and more from onnxruntime 1.31.1, on the CPU). A one-sided transform of real numbers keeps their axis of length 1,
and its inverse returns none.
"""

from typing import Any


def fourier() -> Any:
    """The extension of an `openvino.Core` that converts DFT of any opset. A graph whose axis is no constant is not
    read."""
    from openvino.frontend.onnx import ConversionExtension

    return ConversionExtension("DFT", "", _converted)


def _converted(node: Any) -> Any:
    """The outputs of OpenVINO's operations for a DFT of numbers [..., 1], or of complex ones [..., 2]."""
    from openvino import opset9 as ops

    inputs = [node.get_input(place) for place in range(node.get_input_size())]
    signal, shape = inputs[0], inputs[0].get_partial_shape()
    inverse, onesided = (node.get_attribute(name, 0) for name in ("inverse", "onesided"))
    axis = inputs[2].get_node().data.item() if len(inputs) > 2 else node.get_attribute("axis", 1)
    last, axes = len(shape) - 1, [axis % len(shape)]
    lengths = [ops.reshape(each, [1], False) for each in inputs[1:2] if each.get_node().get_type_name() != "NullNode"]
    is_real = shape[last].is_static and shape[last].get_length() == 1
    if onesided and not inverse:
        return ops.rdft(ops.squeeze(signal, [last]), axes, *lengths).outputs()
    if is_real:
        signal = ops.concat([signal, ops.multiply(signal, signal.get_element_type().to_dtype().type(0))], last)
    if onesided:
        return ops.unsqueeze(ops.irdft(signal, axes, *lengths), [last]).outputs()
    return (ops.idft if inverse else ops.dft)(signal, axes, *lengths).outputs()
