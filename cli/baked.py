"""A baked file in words."""

from pathlib import Path

from fewstep.graph.bake.metadata import NO_CHECKSUM, Baked, BakedPort


def baked_lines(file: Path, baked: Baked) -> tuple[str, ...]:
    """The description of a baked file, in lines."""
    checksum = "with a checksum" if baked.file_sha256 != NO_CHECKSUM else "without a checksum"
    tested = "with a test vector" if baked.sample is not None else "without a test vector"
    return (
        f"{file}: a baked file of {baked.model}, not a bundle; {checksum}, {tested} (fewstep verify checks them)",
        f"{baked.plan}, {baked.evaluations} evaluations, {guidance_of(baked)}, {baked.precision} for {baked.target}",
        *ports(baked),
        f"licence: {baked.licence or 'none that the source names'}",
    )


def guidance_of(baked: Baked) -> str:
    return "no guidance" if baked.guidance == "None" else f"guidance {baked.guidance}"


def ports(baked: Baked) -> tuple[str, ...]:
    returned = (baked.output, *baked.carried)
    return f"takes {'; '.join(map(_port, baked.inputs))}", f"returns {'; '.join(map(_port, returned))}"


def _port(port: BakedPort) -> str:
    return f"{port.name} {port.dtype} [{', '.join(map(str, port.shape))}]"
