"""Everything that reads or writes ONNX. No torch."""
