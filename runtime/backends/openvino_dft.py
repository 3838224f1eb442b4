"""The Fourier transform as OpenVINO is told to convert it.

The axis is an input since opset 20. OpenVINO 2026.4.1 by itself ignores that input and takes axis 1 (differences of
100 % and more from onnxruntime 1.31.1, on the CPU). A one-sided transform of real numbers keeps their axis of length 1,
and its inverse returns none.

The default of the axis is 1 in opset 17, and -2 since opset 20. A node does not tell its opset to an extension.
"""

from typing import Any


def dft_extension() -> Any:
    """The extension of an `openvino.Core` that converts DFT of any opset. A graph is not read where an axis is no
    constant, or where defaults of the axis differ."""
    from openvino.frontend.onnx import ConversionExtension

    return ConversionExtension("DFT", "", _convert_dft)


def _convert_dft(node: Any) -> Any:
    """The outputs of OpenVINO's operations for a DFT of numbers [..., 1], or of complex ones [..., 2]."""
    from openvino import opset9 as ops

    ports = (node.get_input(place) for place in range(node.get_input_size()))
    inputs: list[Any] = [None if each.get_node().get_type_name() == "NullNode" else each for each in ports]
    signal, shape = inputs[0], inputs[0].get_partial_shape()
    inverse, onesided = (node.get_attribute(name, 0) for name in ("inverse", "onesided"))
    if inputs[2:] not in ([], [None]):
        axis = inputs[2].get_node().data.item()
    elif node.has_attribute("axis") or len(shape) == 3:  # of three axes, 1 is -2
        axis = node.get_attribute("axis", 1)
    else:
        raise ValueError(f"DFT of {len(shape)} axes without its axis")
    last, axes = len(shape) - 1, [axis % len(shape)]
    lengths = [ops.reshape(each, [1], False) for each in inputs[1:2] if each is not None]
    is_real = shape[last].is_static and shape[last].get_length() == 1
    if onesided and not inverse:
        return ops.rdft(ops.squeeze(signal, [last]), axes, *lengths).outputs()
    if is_real:
        signal = ops.concat([signal, ops.multiply(signal, signal.get_element_type().to_dtype().type(0))], last)
    if onesided:
        return ops.unsqueeze(ops.irdft(signal, axes, *lengths), [last]).outputs()
    return (ops.idft if inverse else ops.dft)(signal, axes, *lengths).outputs()
