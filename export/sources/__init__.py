"""Load denoisers from a shipped model, a Python file, an ONNX file, or a folder."""
