"""Read the tensors of a GGUF file, dequantized to float32."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import import_package

GGUF = ".gguf"
GIVE_WIDER = "give the model's file in BF16, F16 or Q8_0"
SHAPE = "comfy.gguf.orig_shape."  # a field with the shape of a tensor that was stored in another one


def read_gguf(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a GGUF file by name, in float32. The package gguf defines each format of blocks."""
    gguf = import_package("gguf", f"{file.name} is read by the package gguf, which", "pip install gguf")
    try:
        reader = gguf.GGUFReader(str(file))
        return {tensor.name: _dequantize(gguf, reader, tensor) for tensor in reader.tensors}
    except NotImplementedError as error:
        what = f"{file.name} has a format that this version of gguf does not dequantize ({error})"
        raise UserError(what, f"pip install -U gguf, or {GIVE_WIDER}") from error
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(f"{file.name} is not a whole GGUF file ({error})", "copy it again") from error


def _dequantize(gguf: Any, reader: Any, tensor: Any) -> Tensor:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    field = reader.get_field(f"{SHAPE}{tensor.name}")
    shape = tensor.shape[::-1] if field is None else [field.parts[index][0] for index in field.data]
    return torch.from_numpy(np.array(values, np.float32).reshape([int(size) for size in shape]))
