"""Write a bundle as a transaction: its files first, under names of their content, then the manifest that names them.

Until `os.replace` puts the new manifest in place, the bundle is the old one (or none); from then on it is the new one.
A process killed anywhere leaves one of the two, and at most some files that no manifest names, which the next writer
removes. The lock belongs to the operating system, so it ends with the process that held it.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from fewstep.runtime.bundle import MANIFEST, check_manifest, file_sha256, named_files, open_bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Manifest

LOCK = ".fewstep-lock"
SCRATCH = ".fewstep-scratch"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of the disk, the user's share of it, one file
CONTENT_NAME = re.compile(r".+-([0-9a-f]{12})(?:\.\w+)+")  # what `add` calls a file


class Writer:
    """The right to change one bundle.

    `manifest` is the bundle as it stands (None: there is none, or none that can be read); `files` maps what was added
    to it, by relative path, to its SHA-256.
    """

    def __init__(self, bundle: Path, manifest: Manifest | None) -> None:
        self.bundle = bundle
        self.manifest = manifest
        self.files: dict[str, str] = {}

    def scratch(self, name: str) -> Path:
        """A path for a file in the making; `add` moves it into the bundle."""
        folder = self.bundle / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder / name

    def add(self, content: bytes | Path, folder: str, name: str, suffix: str) -> str:
        """Add a file as <folder>/<name>-<sha256[:12]><suffix>; returns that path. A Path is moved, not copied."""
        with _explained(self.bundle):
            draft = content if isinstance(content, Path) else self.scratch(f"{name}{suffix}")
            if isinstance(content, bytes):
                draft.write_bytes(content)
            digest = file_sha256(draft)
            _sync(draft)
            relative = f"{folder}/{name}-{digest[:12]}{suffix}"
            target = self.bundle / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(draft, target)
        self.files[relative] = digest
        return relative

    def commit(self, manifest: Manifest) -> Manifest:
        """Make `manifest` the bundle, in one step; returns it with its `files` completed.

        `files` lists what the manifest refers to, each with the hash that `add` found or that it already had. What
        readers would refuse is refused here. What no longer belongs to the bundle is removed when the writer closes.
        """
        known = {**manifest.files, **self.files}
        files = {path: known[path] for path in sorted(set(named_files(manifest)))}
        manifest = msgspec.structs.replace(manifest, files=files)
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        check_manifest(content, self.bundle)
        with _explained(self.bundle):
            draft = self.scratch(MANIFEST)
            draft.write_bytes(content)
            _sync(draft)
            for folder in {self.bundle, *((self.bundle / path).parent for path in files)}:
                _sync(folder)
            os.replace(draft, self.bundle / MANIFEST)
            _sync(self.bundle)
        self.manifest = manifest
        return manifest

    def close(self) -> None:
        """Remove what no manifest names: former files after a commit, new ones after a failure.

        A commit may have been interrupted just behind its `os.replace`. So the manifest in place counts, whatever this
        writer knows of it, and beside it the last one that is known to have reached the disk.
        """
        shutil.rmtree(self.bundle / SCRATCH, ignore_errors=True)
        in_place = _current(self.bundle, must_exist=False)
        if in_place is not None or not (self.bundle / MANIFEST).exists():
            _remove_garbage(self.bundle, {name for each in (in_place, self.manifest) if each for name in each.files})


@contextmanager
def open_for_update(bundle: Path, must_exist: bool) -> Iterator[Writer]:
    """Take the bundle's lock for as long as the block runs. What is not committed by its end is as if never written."""
    if must_exist:
        open_bundle(bundle)  # says what is wrong with it before a lock or a folder is made
    if bundle.exists() and not bundle.is_dir():
        raise UserError(f"{bundle} is a file, not a folder", "give another path for the bundle")
    if _is_foreign(bundle / MANIFEST):
        raise UserError(f"{bundle} holds a {MANIFEST} of something else", "give another path for the bundle")
    with _explained(bundle):
        made = not bundle.exists()
        bundle.mkdir(parents=True, exist_ok=True)
        lock = _lock(bundle)
    try:
        writer = Writer(bundle, _current(bundle, must_exist))
        try:
            yield writer
        except OSError as error:
            if error.errno in FULL:
                raise _unwritable(bundle, error) from None
            raise
        finally:
            writer.close()
    finally:
        with suppress(OSError):
            (bundle / LOCK).unlink()  # before the lock is let go: see `_lock`
        os.close(lock)
        if made:
            with suppress(OSError):
                bundle.rmdir()  # succeeds only if nothing was left in it


@contextmanager
def _explained(bundle: Path) -> Iterator[None]:
    """A full disk or a folder without permission, in one line."""
    try:
        yield
    except OSError as error:
        raise _unwritable(bundle, error) from None


def _unwritable(bundle: Path, error: OSError) -> UserError:
    return UserError(f"{bundle} cannot be written ({error.strerror})", "free space or give another path")


def _current(bundle: Path, must_exist: bool) -> Manifest | None:
    """The manifest in place, read under the lock. A damaged one is an error only to those who build on it."""
    try:
        return open_bundle(bundle).manifest
    except UserError:
        if must_exist:
            raise
        return None


def _is_foreign(manifest: Path) -> bool:
    """True for a JSON object that never was a bundle's manifest; a damaged one of ours may be written over."""
    if not manifest.is_file():
        return False
    try:
        content = msgspec.json.decode(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "schema" not in content


def _lock(bundle: Path) -> int:
    """A descriptor that holds the lock, or UserError. The file may vanish between open and lock: then try again."""
    path = bundle / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock_descriptor(descriptor)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError | PermissionError):  # the latter is what Windows calls a lock held
                raise UserError(f"another process is writing {bundle}", "wait until it has ended") from None
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)


def _lock_descriptor(descriptor: int) -> None:
    """Lock an open file without waiting; OSError if another process holds it."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_garbage(bundle: Path, named: set[str]) -> None:
    """Remove files that `add` once wrote and no manifest names. A file that is in use elsewhere stays for next time.

    The folder may hold other files, even other bundles: only what carries the hash of its own content, where `add`
    puts it, is ours.
    """
    removed = set()
    for path in [p for p in bundle.glob("*/*") if p.relative_to(bundle).as_posix() not in named]:
        with suppress(OSError):
            match = CONTENT_NAME.fullmatch(path.name)
            if match and path.is_file() and file_sha256(path).startswith(match[1]):
                path.unlink()
                removed.add((path.parent, match[1]))
    for path in bundle.glob("*/*"):  # such as report/index.html, whose page has just gone: a link, or a copy
        with suppress(OSError):
            if path.is_symlink():
                is_stale = not path.exists() and CONTENT_NAME.fullmatch(os.readlink(path)) is not None
            else:
                is_stale = path.name == "index.html" and (path.parent, file_sha256(path)[:12]) in removed
            if is_stale:
                path.unlink()
    for folder in {folder for folder, _ in removed}:
        with suppress(OSError):
            folder.rmdir()  # succeeds only if nothing is left in it


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk. Windows has no folders to sync."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
