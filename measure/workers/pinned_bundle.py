"""A reference to a bundle as it was when a command started. Each process opens the bundle by its path."""

from dataclasses import dataclass
from pathlib import Path

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import MANIFEST, file_sha256


@dataclass(frozen=True)
class PinnedBundle:
    """A bundle's absolute path, and the SHA-256 of its manifest, which has the hashes of all other files."""

    path: Path
    digest: str

    def check_folder(self) -> Path:
        """Return the folder of the bundle. Raises UserError if the bundle has changed."""
        try:
            is_same = file_sha256(self.path / MANIFEST) == self.digest
        except OSError:
            is_same = False
        if not is_same:
            raise UserError(f"{self.path} was changed meanwhile", "run the command again")
        return self.path


def pin_bundle(bundle: Path) -> PinnedBundle:
    """Return the bundle in a folder in its current state."""
    return PinnedBundle(bundle.resolve(), file_sha256(bundle / MANIFEST))
