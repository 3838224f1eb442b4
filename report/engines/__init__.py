"""Compare the engines of this machine with onnxruntime, and find the first layer that differs."""
