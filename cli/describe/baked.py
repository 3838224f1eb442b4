"""Describe a baked file (a run as one ONNX file) as text."""

from pathlib import Path

from fewstep.graph.bake.metadata import NO_CHECKSUM, Baked, BakedPort


def describe_baked(file: Path, baked: Baked) -> tuple[str, ...]:
    """Return the description of a baked file, as lines."""
    checksum = "with a checksum" if baked.file_sha256 != NO_CHECKSUM else "without a checksum"
    tested = "with a test vector" if baked.sample is not None else "without a test vector"
    return (
        f"{file}: a baked file of {baked.model}, not a bundle; {checksum}, {tested} (fewstep verify checks them)",
        f"{baked.plan}, {baked.evaluations} evaluations, {describe_guidance(baked)}, "
        f"{baked.precision} for {baked.target}",
        *describe_ports(baked),
        f"licence: {baked.licence or 'not named by the source'}",
    )


def describe_guidance(baked: Baked) -> str:
    return "no guidance" if baked.guidance == "None" else f"guidance {baked.guidance}"


def describe_ports(baked: Baked) -> tuple[str, ...]:
    returned = (baked.output, *baked.carried)
    return (
        f"takes {'; '.join(map(_describe_port, baked.inputs))}",
        f"returns {'; '.join(map(_describe_port, returned))}",
    )


def _describe_port(port: BakedPort) -> str:
    return f"{port.name} {port.dtype} [{', '.join(map(str, port.shape))}]"
