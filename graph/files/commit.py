"""Write a bundle as a transaction: first the files, under content-hashed names, then the manifest that names them.

Until `os.replace` puts the new manifest in place, readers see the old bundle, or none. A process that is killed at any
moment leaves either the old bundle or the new one, and perhaps files that no manifest names, which the next writer
removes. The lock is held by the operating system, so it ends with the process.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import (
    LOCK,
    MANIFEST,
    Bundle,
    check_writable,
    file_sha256,
    list_files,
    open_bundle,
    read_manifest,
)
from fewstep.runtime.interrupts import allow_interrupts, check_interrupted, delay_interrupts

LOG = logging.getLogger("fewstep")
SCRATCH = ".fewstep-scratch"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full disk, exceeded quota, file size limit
REPORTS = ("report", "results", "evaluation", "verification")  # fields of a manifest that no verb reads
ANOTHER_PATH = "give another path"
BLOCK = 2**24  # bytes per copy
CONTENT_NAME = re.compile(r".+-([0-9a-f]{12})(?:\.\w+)+")  # matches the names that `add` gives


def refuse_in_bundle(path: Path) -> None:
    """Raise UserError if the path is a file of a bundle, which no other output of a verb may replace."""
    whole = Path(os.path.realpath(path))  # follow links
    for folder in whole.parents:
        if (folder / MANIFEST).is_file():
            name = whole.relative_to(folder).as_posix()
            if name == MANIFEST or name in _bundle_files(folder):
                raise UserError(f"{path} is a file of the bundle {folder}", "write elsewhere")


def refuse_inside_bundle(path: Path) -> None:
    """Raise UserError if the path is in the folder of a bundle, where the next verb may remove or overwrite it."""
    refuse_in_bundle(path)
    for folder in Path(os.path.realpath(path)).parents:
        if (folder / MANIFEST).is_file() and not _is_foreign(folder / MANIFEST):  # web pages have such a file too
            raise UserError(f"{path} is in the bundle {folder}, which stays unchanged", "write elsewhere")


def _bundle_files(folder: Path) -> Collection[str]:
    """Return the files of a bundle, or none if the bundle cannot be read."""
    try:
        return open_bundle(folder).manifest.files
    except UserError:
        return ()


class Draft:
    """A file that is hashed while it is written. `Writer.add` moves it into the bundle.

    It is a context manager: inside the block the file is open, after it the file is complete.
    """

    def __init__(self, path: Path, bundle: Path, instead: str = ANOTHER_PATH) -> None:
        self.path = path
        self._bundle, self._instead = bundle, instead
        self._hash = hashlib.sha256()
        self._stream: IO[bytes] | None = None

    @property
    def sha256(self) -> str:
        """The hash of the bytes written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def write(self, block: bytes | memoryview) -> None:
        """Append bytes. Raises UserError if the disk is full."""
        assert self._stream is not None, "write to a draft only inside its with block"
        with _report_write_errors(self._bundle, self._instead):
            self._stream.write(block)
        self._hash.update(block)

    def __enter__(self) -> "Draft":
        with _report_write_errors(self._bundle, self._instead):
            self._stream = self.path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._stream is not None, "entered before"
        with _report_write_errors(self._bundle, self._instead):
            self._stream.close()


class Writer:
    """Holds a bundle's lock and changes the bundle.

    `opened` is the bundle as it was when the lock was taken, or None if there was none or it cannot be read. `manifest`
    is its manifest, and after a commit the new one. `files` maps the relative path of each added file to its SHA-256.
    `instead` tells users what to do if the bundle cannot be written.
    """

    def __init__(self, bundle: Path, opened: Bundle | None, instead: str = ANOTHER_PATH) -> None:
        self.bundle = bundle
        self.opened = opened
        self.manifest = None if opened is None else opened.manifest
        self.instead = instead
        self.files: dict[str, str] = {}

    @property
    def known_files(self) -> dict[str, str]:
        """The files of the bundle and those added to it: relative path -> SHA-256."""
        return {**({} if self.manifest is None else self.manifest.files), **self.files}

    def scratch(self, name: str) -> Path:
        """Return the path of a temporary file, which `add` can move into the bundle."""
        folder = self.bundle / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder / name

    def draft(self, name: str) -> Draft:
        """Return a file to write block by block, which `add` can move into the bundle."""
        return Draft(self.scratch(name), self.bundle, self.instead)

    def reserve(self, size: int) -> None:
        """Raise UserError if the disk has no room for `size` more bytes. Call it before hours of work, not after
        them."""
        check_room(self.bundle, size, self.instead)

    def add(self, content: bytes | Path | Draft, folder: str, name: str, suffix: str) -> str:
        """Add a file as <folder>/<name>-<sha256[:12]><suffix>; returns that path. A Path or a Draft is moved."""
        with _report_write_errors(self.bundle, self.instead):
            if isinstance(content, bytes):
                with self.draft(f"{name}{suffix}") as draft:
                    draft.write(content)
                content = draft
            path = content.path if isinstance(content, Draft) else content
            digest = content.sha256 if isinstance(content, Draft) else file_sha256(path)
            _sync(path)
            relative = f"{folder}/{name}-{digest[:12]}{suffix}"
            target = self.bundle / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        self.files[relative] = digest
        return relative

    def add_copy(self, path: Path, folder: str, name: str, suffix: str) -> str:
        """Add a copy of a file, named as in `add`."""
        with _report_write_errors(self.bundle, self.instead):
            self.reserve(path.stat().st_size)
            with self.draft(f"{name}{suffix}") as draft, path.open("rb") as stream:
                while block := stream.read(BLOCK):
                    draft.write(block)
        return self.add(draft, folder, name, suffix)

    def commit(self, manifest: Manifest) -> Manifest:
        """Replace the manifest atomically by `manifest`; return it with its `files` completed.

        `files` lists each file that the manifest refers to, with the hash that `add` computed or the one recorded
        before. Raises UserError if readers would refuse the manifest. `close` removes files that no longer belong to
        the bundle.
        """
        manifest = self._drop_lost_reports(manifest)
        sha256 = {**self.known_files, **manifest.files, **self.files}
        files = {path: sha256[path] for path in sorted(set(list_files(manifest)))}
        manifest = msgspec.structs.replace(manifest, files=files)
        with _report_write_errors(self.bundle, self.instead):
            with self.draft(MANIFEST) as draft:
                draft.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
            read_manifest(draft.path, self.bundle)
            _sync(draft.path)
            for folder in {self.bundle, *((self.bundle / path).parent for path in files if self._has(path))}:
                _sync(folder)
            check_interrupted()
            os.replace(draft.path, self.bundle / MANIFEST)
            _sync(self.bundle)
        self.manifest = manifest
        return manifest

    def _drop_lost_reports(self, manifest: Manifest) -> Manifest:
        """Return the manifest without reports that were deleted. Nothing else depends on them."""
        lost = {field: name for field in REPORTS if (name := getattr(manifest, field)) and not self._has(name)}
        for name in lost.values():
            LOG.warning("%s: file %s is missing; it is dropped from the manifest", self.bundle, name)
        return msgspec.structs.replace(manifest, **dict.fromkeys(lost))

    def _has(self, name: str) -> bool:
        return (self.bundle / name).is_file()

    def close(self) -> None:
        """Remove files that no manifest refers to: old ones after a commit, new ones after a failure.

        A commit may have been interrupted right after its `os.replace`. The files of two manifests are therefore kept:
        those of the manifest in place, and those of the last manifest that this writer certainly stored on disk.
        """
        shutil.rmtree(self.bundle / SCRATCH, ignore_errors=True)
        in_place = _current(self.bundle, must_exist=False)
        if in_place is not None or not (self.bundle / MANIFEST).exists():
            last = None if in_place is None else in_place.manifest
            named = {name for manifest in (last, self.manifest) if manifest for name in manifest.files}
            _remove_garbage(self.bundle, named, self.files)


@contextmanager
def open_for_update(bundle: Path, must_exist: bool, instead: str = ANOTHER_PATH, *, verb: str = "") -> Iterator[Writer]:
    """Hold the bundle's lock while the block runs. Whatever is not committed at its end is discarded.

    `instead` tells users what to do if the bundle cannot be written. Raises UserError now, not after hours of work, if
    the bundle lacks files. Reports may be missing, and so may files that `verb` writes again.
    """
    if (there := _current(bundle, must_exist)) is not None:  # before creating a lock or a folder
        check_writable(there, verb if must_exist else None)
    if bundle.exists() and not bundle.is_dir():
        raise UserError(f"{bundle} is a file, not a folder", "give another path for the bundle")
    if _is_foreign(bundle / MANIFEST):
        raise UserError(
            f"{bundle} holds a {MANIFEST} that is not a bundle's manifest", "give another path for the bundle"
        )
    if bundle.is_dir() and not _may_become_a_bundle(bundle):
        raise UserError(f"{bundle} is not empty and is not a bundle", "give a new folder")
    with delay_interrupts():  # the lock is taken and let go as a whole
        with _report_write_errors(bundle, instead):
            folders = [folder for folder in (bundle, *bundle.parents) if not folder.exists()]
            bundle.mkdir(parents=True, exist_ok=True)
            lock = _lock(bundle)
        writer = None
        try:
            writer = Writer(bundle, _current(bundle, must_exist), instead)
            with allow_interrupts():
                yield writer
        except OSError as error:
            if error.errno in FULL:
                raise _unwritable(bundle, error, instead) from None
            raise
        finally:
            _close(bundle, writer, lock, folders)


def _close(bundle: Path, writer: Writer | None, lock: int, made: Sequence[Path]) -> None:
    """Remove files that no manifest names, release the lock, and remove the folders `made` if they are empty."""
    try:
        if writer is not None:
            writer.close()
    finally:
        with suppress(OSError):
            (bundle / LOCK).unlink()  # before releasing the lock: see `_lock`
        os.close(lock)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()  # succeeds only if nothing was left in it


def check_room(bundle: Path, size: int, instead: str = ANOTHER_PATH) -> None:
    """Raise UserError if the disk of a bundle has no room for `size` more bytes. The bundle need not exist yet."""
    free = shutil.disk_usage(existing_parent(bundle)).free
    if size > free:
        what = f"{bundle} needs {_format_bytes(size)} more, and its disk has {_format_bytes(free)} free"
        raise UserError(what, f"free space or {instead}")


def existing_parent(folder: Path) -> Path:
    """Return the first existing folder at or above this one. Its disk stores the files."""
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


@contextmanager
def _report_write_errors(bundle: Path, instead: str = ANOTHER_PATH) -> Iterator[None]:
    """Raise a one-line UserError for a full disk or a missing permission."""
    try:
        yield
    except OSError as error:
        raise _unwritable(bundle, error, instead) from None


def _format_bytes(size: int) -> str:
    """Format bytes with the usual unit."""
    unit, scale = next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))
    return f"{size / scale:.3g} {unit}"


def _unwritable(bundle: Path, error: OSError, instead: str) -> UserError:
    cure = "free space" if error.errno in FULL else "make it writable"
    return UserError(f"{bundle} cannot be written ({error.strerror})", f"{cure} or {instead}")


def _current(bundle: Path, must_exist: bool) -> Bundle | None:
    """Return the bundle as stored on disk, or None. A damaged manifest is an error only if the bundle must exist."""
    try:
        return open_bundle(bundle)
    except UserError:
        if must_exist:
            raise
        return None


def _is_foreign(manifest: Path) -> bool:
    """Return True for a JSON file that was never a bundle's manifest, and so must not be overwritten, unlike a damaged
    manifest."""
    if not manifest.is_file():
        return False
    try:
        content = msgspec.json.decode(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "schema" not in content


def _may_become_a_bundle(folder: Path) -> bool:
    """Return True for a bundle, an empty folder, or a folder whose writer was killed before its first commit."""
    if (folder / MANIFEST).exists():
        return True
    with _report_write_errors(folder):
        return all(path.name in (LOCK, SCRATCH) or _is_of_content(path) for path in folder.iterdir())


def _is_of_content(folder: Path) -> bool:
    """Return True if a folder is empty or holds only files that `Writer.add` named."""
    with suppress(FileNotFoundError):  # another writer is active
        return folder.is_dir() and all(CONTENT_NAME.fullmatch(path.name) for path in folder.iterdir())
    return True


def _lock(bundle: Path) -> int:
    """Return a file descriptor that holds the bundle's lock. Raises UserError if another process holds the lock."""
    path = bundle / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock_descriptor(descriptor)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError | PermissionError):  # PermissionError: a held lock on Windows
                raise UserError(f"another process is writing {bundle}", "wait until it has ended") from None
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)


def _lock_descriptor(descriptor: int) -> None:
    """Lock an open file. Raises OSError at once, without waiting, if another process holds the lock."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_garbage(bundle: Path, named: set[str], own: Collection[str]) -> None:
    """Remove files that an earlier `add` wrote and that no manifest refers to. A file in use by another process stays
    until the next commit.

    The folder may contain other files, even other bundles. Only files in subfolders are removed, whose names contain
    the hash of their content. Files in `own` were added by this writer, so their content is not hashed again.
    """
    removed = set()
    for path in [p for p in bundle.glob("*/*") if p.relative_to(bundle).as_posix() not in named]:
        with suppress(OSError):
            match = CONTENT_NAME.fullmatch(path.name)
            is_own = path.relative_to(bundle).as_posix() in own
            if match and path.is_file() and (is_own or file_sha256(path).startswith(match[1])):
                path.unlink()
                removed.add((path.parent, match[1]))
    for path in bundle.glob("*/*"):  # such as report/index.html, a link to a page just removed, or a copy of it
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
    """Flush a file, or the entries of a folder, to disk. Windows cannot sync folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
