"""The program of a TensorRT-RTX engine, parsed from its text: tensors, and the instructions that read and write them.

An engine inspector needs a loaded engine, and loading needs a GPU. But an engine whose code is compiled on its device
contains its program as text, one line per tensor and instruction. The text format is undocumented (read in tensorrt-rtx
1.7). Each instruction for which the device generates code ("runtime_...") has a separate program, in the same order.
Dimensions that follow the batch have names, which host instructions compute.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

LINE = re.compile(r"^ *(\w+)=\{(.*)$", re.MULTILINE)
DEVICES, GENERATED = "accelerators", "*}"  # how a program names its devices: one, or any
HEADS = ("inputs", DEVICES)  # lines before a program's tensors, in either order
TENSORS = ("tensor", "sub_tensor")
ON_HOST = 100  # a value of mem_prop
NAME, SOURCE = re.compile(r' ?name="?([^"\s]+)'), re.compile(r'\bsrc="(-?\d+)i64"')
LIST = r'=\{((?:[^}"]|"[^"]*")*)\}'  # names may have braces
FIELD = {field: re.compile(rf"\b{field}{LIST}") for field in ("dims", "input", "output")}
ARGUMENTS = {end: re.compile(rf"\b{end}_args{LIST}") for end in ("input", "output")}
TYPE, MEMORY = re.compile(r"\btype=(\w+)"), re.compile(r"\bmem_prop=(\d+)")
QUOTED = re.compile(r'"([^"]+)"')
ARITHMETIC: Mapping[str, Callable[[int, int], int]] = {
    "mul": int.__mul__,
    "add": int.__add__,
    "sub": int.__sub__,
    "min": min,
    "max": max,
}


@dataclass(frozen=True)
class ProgramTensor:
    """A tensor of an engine's program. A dimension without a fixed size is the name of the host integer that has its
    size."""

    dims: tuple[int | str, ...]
    type: str
    is_on_host: bool

    def elements(self, numbers: Mapping[str, int]) -> int | None:
        """Return the number of elements, given the values of named dimensions; None if one is unknown."""
        sizes = [size if isinstance(size, int) else numbers.get(size) for size in self.dims]
        return None if None in sizes else prod(size for size in sizes if size is not None)


@dataclass(frozen=True)
class EngineInstruction:
    """A line of the program that computes something. `constant` is the value that a memset on the host writes."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constant: int | None = None


@dataclass(frozen=True)
class EngineProgram:
    """The instructions of an engine in order, including those that run on the host, and the programs of generated
    code."""

    tensors: Mapping[str, ProgramTensor]
    instructions: tuple[EngineInstruction, ...]
    generated: tuple["EngineProgram", ...] = ()

    def numbers(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Return the values of the program's named host integers that follow from inputs of these shapes."""
        known: dict[str, int] = {}
        for name, shape in shapes.items():
            tensor = self.tensors.get(name) or self.tensors.get(f"{name}.1")
            if tensor is not None and len(tensor.dims) == len(shape):
                sizes = zip(tensor.dims, shape, strict=True)
                known |= {size: number for size, number in sizes if isinstance(size, str)}
        copies = [instruction for instruction in self.instructions if instruction.kind == "copy"]
        for copy in copies:  # if a copied dimension of an input is known, so is its source
            for source, target in zip(copy.inputs, copy.outputs, strict=False):
                if target in known:
                    known[source] = known[target]
        before = -1
        while len(known) > before:
            before = len(known)
            for instruction in self.instructions:
                if (number := _result(instruction, known)) is not None:
                    known.setdefault(instruction.outputs[0], number)
        return known


def program_of(engine: bytes) -> EngineProgram | None:
    """Return the program of an engine. Returns None (unknown) if the engine carries no program, or one that this parser
    cannot read."""
    parts: list[tuple[bool, EngineProgram]] = []
    lines: list[tuple[str, str]] = []
    for line in LINE.finditer(engine.decode("latin1")):
        kind, rest = line[1], line[2]
        if kind in HEADS and any(each in TENSORS for each, _ in lines):
            parts.append(_program(lines))
            lines = []
        lines.append((kind, rest))
    if lines:
        parts.append(_program(lines))
    own = [part for is_generated, part in parts if not is_generated and part.instructions]
    if not own:
        return None
    tensors = {name: tensor for part in own for name, tensor in part.tensors.items()}
    instructions = tuple(instruction for part in own for instruction in part.instructions)
    return EngineProgram(tensors, instructions, tuple(part for is_generated, part in parts if is_generated))


def _program(lines: list[tuple[str, str]]) -> tuple[bool, EngineProgram]:
    """Return whether the device generates the code of this program, and the program."""
    is_generated = any(kind == DEVICES and rest.startswith(GENERATED) for kind, rest in lines)
    tensors = dict(_tensors(lines))
    return is_generated, EngineProgram(tensors, tuple(_instructions(lines)))


def _tensors(lines: list[tuple[str, str]]) -> Iterator[tuple[str, ProgramTensor]]:
    for kind, rest in lines:
        if kind in TENSORS:
            name, dims, kept = QUOTED.search(rest[rest.find(" name=") :]), FIELD["dims"].search(rest), TYPE.search(rest)
            memory = MEMORY.search(rest)
            if name and dims:
                sizes = tuple(int(size) if size.isdigit() else size.strip('"') for size in dims[1].split())
                is_on_host = memory is not None and int(memory[1]) == ON_HOST
                yield name[1], ProgramTensor(sizes, kept[1] if kept else "unknown", is_on_host)


def _instructions(lines: list[tuple[str, str]]) -> Iterator[EngineInstruction]:
    for kind, rest in lines:
        inputs = ARGUMENTS["input"].search(rest) or FIELD["input"].search(rest)
        outputs = ARGUMENTS["output"].search(rest) or FIELD["output"].search(rest)
        name, source = NAME.search(rest), SOURCE.search(rest)
        if outputs is not None and name is not None:
            read = tuple(QUOTED.findall(inputs[1])) if inputs else ()
            yield EngineInstruction(
                kind, name[1], read, tuple(QUOTED.findall(outputs[1])), int(source[1]) if source else None
            )


def _result(each: EngineInstruction, known: Mapping[str, int]) -> int | None:
    """Return the integer that a host instruction computes from known ones; None if it is unknown."""
    numbers = [known[name] for name in each.inputs if name in known]
    if each.constant is not None:
        return each.constant
    if each.kind == "copy" and len(numbers) == 1:
        return numbers[0]
    if each.kind in ARITHMETIC and len(each.inputs) == len(numbers) == 2:
        return ARITHMETIC[each.kind](*numbers)
    return None
