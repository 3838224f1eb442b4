"""Rewrite a body's graph for ONNX Runtime's CUDA provider, and check on the CPU that its results stay the same."""
