"""A digest of the code that computes a cached result, so that results of earlier versions of the code are not used."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from fewstep.runtime.machine.packages import version_of


def digest_code(packages: Iterable[ModuleType]) -> bytes:
    """Return a digest of fewstep's version and of all Python sources of some packages.

    If they are installed without sources, only the version counts.
    """
    digest = sha256(repr(version_of("fewstep")).encode())
    for folder in (Path(path) for package in packages for path in package.__path__):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder).as_posix()} {sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.digest()
