"""Engines of this machine beside onnxruntime: whether they compute the same, and the first layer where they do not."""
