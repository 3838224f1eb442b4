"""A digest of the code that made a cached result: after an edit or an update, no result of earlier code is taken."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from fewstep.runtime.machine.packages import version_of


def digest_code(packages: Iterable[ModuleType]) -> bytes:
    """A digest of fewstep's version and of all Python sources of some packages. Installed without sources, the version
    alone tells."""
    digest = sha256(repr(version_of("fewstep")).encode())
    for folder in (Path(path) for package in packages for path in package.__path__):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder).as_posix()} {sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.digest()
