"""From torch to ONNX: capture of a module, its errors, and replacements for what torch cannot trace or export directly.

Examples are complex tensors, short lists of numbers, and arithmetic on sizes.
"""
