"""Bake a bundle's whole run along one plan into one ONNX file, for programs in any language."""
