"""The form of a body for ONNX Runtime's CUDA provider: rewrites, and the check of their numbers on the CPU."""
