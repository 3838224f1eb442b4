"""A bundle reaches a worker by a path that both see, or as files sent once and kept under the manifest's hash.

Only files that a job reads are sent. A file is there once its content has the hash that the manifest says. The manifest
is written last.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fewstep.machine import cache
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import alone
from fewstep.runtime.bundle.reading import MANIFEST, file_sha256, open_bundle

PIECE = 32 * 2**20  # bytes that are sent at once


class NotHere(Exception):
    """A worker that does not have a bundle yet."""


@dataclass(frozen=True)
class SentBundle:
    """A bundle by its absolute path on the machine that asks and the sha256 of its manifest. `bodies` are the bodies
    that a job needs, float32 apart."""

    path: Path
    digest: str
    bodies: tuple[str, ...] = ()

    def folder(self) -> Path:
        """The folder in which this process has it. NotHere if it has none."""
        for folder in (self.path, kept(self.digest)):
            try:
                if sha256((folder / MANIFEST).read_bytes()).hexdigest() == self.digest and self._is_whole(folder):
                    return folder
            except OSError:
                continue
        raise NotHere(self.digest)

    def _is_whole(self, folder: Path) -> bool:
        """True if all files are there: another job may have needed fewer."""
        return all((folder / name).is_file() for name in needed(open_bundle(folder).manifest, self.bodies))

    def is_here(self) -> bool:
        try:
            self.folder()
        except NotHere:
            return False
        return True

    def pieces(self) -> Iterator["Piece"]:
        """The parts of all needed files, in order; the manifest is last."""
        manifest = open_bundle(self.path).manifest
        for name in (*needed(manifest, self.bodies), MANIFEST):
            size = (self.path / name).stat().st_size
            expected = self.digest if name == MANIFEST else manifest.files[name]
            with (self.path / name).open("rb") as stream:
                for start in range(0, max(size, 1), PIECE):
                    content = stream.read(PIECE)
                    yield Piece(self.digest, name, start, content, expected if start + PIECE >= size else None)


@dataclass(frozen=True)
class Piece:
    """A part of a file. The last part has the sha256 that the whole file must have."""

    digest: str
    name: str
    start: int
    content: bytes
    expected: str | None

    def keep(self) -> None:
        """Write it, in a worker. UserError if the file is another one in the end, or nothing can be written."""
        draft = kept(self.digest) / f"{self.name}.{os.getpid()}"
        try:
            draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with draft.open("wb" if self.start == 0 else "r+b") as stream:
                stream.seek(self.start)
                stream.write(self.content)
            if self.expected is None:
                return
            if file_sha256(draft) != self.expected:
                draft.unlink()
                raise UserError(f"{self.name} changed while it was sent to a worker", "run the command again")
            os.replace(draft, kept(self.digest) / self.name)
        except OSError as error:
            fix = "give workers a path of the bundle that they all see, or room in their cache folders"
            raise UserError(f"a worker cannot keep {self.name} ({error.strerror})", fix) from error


def sent(bundle: Path, bodies: tuple[str, ...] = ()) -> SentBundle:
    """The bundle in a folder, as it is now."""
    return SentBundle(bundle.resolve(), sha256((bundle / MANIFEST).read_bytes()).hexdigest(), bodies)


def kept(digest: str) -> Path:
    """The folder of a bundle that was sent to this machine."""
    return cache.path("bundles", digest[:32])


def needed(manifest: Manifest, bodies: Sequence[str] = ()) -> tuple[str, ...]:
    """The files that sampling reads with the float32 body, and with `bodies`."""
    used = [manifest.bodies[name] for name in ("float32", *bodies)]
    graphs = [manifest.conditioner, manifest.prologue, *(graph for body in used for graph in body.graphs)]
    files = [name for graph in graphs if graph is not None for name in (graph.file, *graph.data)]
    files += [file for name in manifest.networks for file in needed(alone(manifest, name), bodies)]
    files += [each.null_file for each in manifest.conditions if each.null_file is not None]
    return tuple(dict.fromkeys(files))
