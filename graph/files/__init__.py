"""Files of graphs and bundles: read untrusted ONNX, write atomically, map weights."""
