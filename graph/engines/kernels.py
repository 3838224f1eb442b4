"""The kernels of an engine, and the tensors that each reads, writes and multiplies: facts of its program, not times.

Bytes are the sizes of all tensors that a kernel reads and writes, including weights. A tensor listed twice among its
inputs counts once: a bound needs the minimum memory traffic. On a device, caches reduce traffic, and repeated reads
after cache misses increase it. MACs of generated kernels and attention kernels are not counted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from fewstep.graph.engines.program import EngineInstruction, EngineProgram, ProgramTensor, program_of

TYPES = {
    "half": "float16",
    "float": "float32",
    "bf16": "bfloat16",
    "fp8_e4m3": "float8",
}  # other types have ONNX's names
SIZES = {"float16": 2, "float32": 4, "bfloat16": 2, "int8": 1, "float8": 1, "int32": 4, "int64": 8, "bool": 1}
CONVOLUTION = "corrltn"
MULTIPLY = (CONVOLUTION, "fully_connected", "batched_gemm", "gemm")
ON_DEVICE = ("runtime_function", "runtime_fusion")  # instructions with a separate program
NO_KERNELS = ("signal", "wait")


@dataclass(frozen=True)
class Kernel:
    """A kernel of an engine.

    kind: the program's word for it; "corrltn" is a convolution. A generated kernel that contains a product has the kind
        of that product.
    reads, writes: types of its tensors, such as "float16", in program order. A convolution reads its activation first.
    bytes: bytes of all tensors that it reads and writes; None if a size is unknown.
    macs: MACs of convolutions and of products with weights; 0 for other kernels, and if unknown.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    bytes: int | None
    macs: int

    @property
    def multiplies(self) -> str | None:
        """The type that a convolution or a product multiplies; None for other kernels."""
        return self.reads[0] if self.kind in MULTIPLY and self.reads else None


@dataclass(frozen=True)
class Kernels:
    """The kernels that an engine runs for one evaluation of the network."""

    each: tuple[Kernel, ...]

    @property
    def bytes(self) -> int | None:
        """Bytes that all kernels read and write; None if a size is unknown."""
        sizes = [kernel.bytes for kernel in self.each]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def macs(self) -> dict[str, int]:
        """MACs by the type that is multiplied."""
        counted = Counter[str]()
        for kernel in self.each:
            if kernel.multiplies is not None and kernel.macs:
                counted[kernel.multiplies] += kernel.macs
        return dict(counted)

    @property
    def outputs(self) -> dict[str, int]:
        """The number of convolutions and products that write each type."""
        return dict(Counter(kernel.writes[0] for kernel in self.each if kernel.multiplies and kernel.writes))

    @property
    def convolutions(self) -> tuple[Kernel, ...]:
        """The convolution kernels."""
        return tuple(kernel for kernel in self.each if kernel.kind == CONVOLUTION)


def kernels_of(engine: bytes, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Kernels | None:
    """Return the kernels of a TensorRT-RTX engine in order, for inputs of these shapes [batch, ...] by name.

    `shapes` matter only for engines with free sizes. Returns None if the engine does not contain a program text from
    which the kernels can be read.
    """
    program = program_of(engine)
    return None if program is None else Kernels(_kernels(program, program.numbers(shapes or {})))


def _kernels(program: EngineProgram, numbers: Mapping[str, int]) -> tuple[Kernel, ...]:
    generated, kernels = iter(program.generated), []
    for instruction in program.instructions:
        inside = next(generated, None) if instruction.kind in ON_DEVICE else None
        written = [_tensor(program, name) for name in instruction.outputs]
        if instruction.kind in NO_KERNELS or all(tensor is not None and tensor.is_on_host for tensor in written):
            continue
        read = [_tensor(program, name) for name in dict.fromkeys(instruction.inputs)]
        touched = [tensor for tensor in read if tensor is None or not tensor.is_on_host]
        sizes = [None if tensor is None else _bytes(tensor, numbers) for tensor in (*touched, *written)]
        size = None if None in sizes else sum(size for size in sizes if size is not None)
        reads, writes = (tuple(map(_type, tensors)) for tensors in (touched, written))
        kind, macs = instruction.kind, _macs(instruction, program, numbers)
        for one in inside.instructions if inside is not None else ():
            if inside is not None and one.kind in MULTIPLY:
                kind, macs = one.kind, macs + _macs(one, inside, numbers)
                reads = tuple(_type(_tensor(inside, name)) for name in one.inputs)
        kernels.append(Kernel(instruction.name, kind, reads, writes, size, macs))
    return tuple(kernels)


def _macs(each: EngineInstruction, program: EngineProgram, numbers: Mapping[str, int]) -> int:
    """Return the MACs of a convolution with weights [out, in, ...], or of a product of [..., K] and [K, N]; 0 if
    unknown."""
    if each.kind not in MULTIPLY or len(each.inputs) < 2:
        return 0
    x, weight, y = (_tensor(program, name) for name in (*each.inputs[:2], each.outputs[0]))
    made = None if y is None else y.elements(numbers)
    if made is None or x is None or weight is None:
        return 0
    inner = weight.dims[1:] if each.kind == CONVOLUTION else x.dims[-1:]
    known = [size if isinstance(size, int) else numbers.get(size, 0) for size in inner]
    return made * prod(known)


def _tensor(program: EngineProgram, name: str) -> ProgramTensor | None:
    return program.tensors.get(name)


def _type(tensor: ProgramTensor | None) -> str:
    return "unknown" if tensor is None else TYPES.get(tensor.type, tensor.type)


def _bytes(tensor: ProgramTensor, numbers: Mapping[str, int]) -> int | None:
    elements, size = tensor.elements(numbers), SIZES.get(_type(tensor))
    return None if elements is None or size is None else elements * size
