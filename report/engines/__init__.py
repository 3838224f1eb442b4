"""Engines of this machine compared with onnxruntime, and the first layer where they differ."""
