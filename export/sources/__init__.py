"""Where denoisers come from: shipped with fewstep, a Python file, an .onnx file, a diffusers folder."""
