"""Names of what runs whole calls."""

INT8, CUDNN, COMPILED = "int8, cuDNN", "float16, cuDNN", "float16, torch.compile"
ENGINES = (INT8, CUDNN, COMPILED)
SIMULATED = "int8, simulated on the CPU"
