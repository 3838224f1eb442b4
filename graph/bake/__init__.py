"""A bundle's whole run along one plan as one ONNX file, for programs in any language."""
