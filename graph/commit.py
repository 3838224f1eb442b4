"""Write a bundle as a transaction: its files first, under names of their content, then the manifest that names them.

Until `os.replace` puts the new manifest in place, the bundle is the old one (or none); from then on it is the new one.
A process killed anywhere leaves one of the two, and at most some files that no manifest names, which the next writer
removes. The lock belongs to the operating system, so it ends with the process that held it.
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
    check_manifest,
    check_present,
    file_sha256,
    list_files,
    open_bundle,
)
from fewstep.runtime.interrupts import check_interrupted, delay_interrupts

LOG = logging.getLogger("fewstep")
SCRATCH = ".fewstep-scratch"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of the disk, the user's share of it, one file
REPORTS = ("report", "results", "evaluation", "verification")  # fields of a manifest; verbs read none of them
ANOTHER_PATH = "give another path"
BLOCK = 2**24  # bytes that are copied at a time
CONTENT_NAME = re.compile(r".+-([0-9a-f]{12})(?:\.\w+)+")  # what `add` calls a file


def refuse_in_bundle(path: Path) -> None:
    """UserError for the path of a file that belongs to a bundle: no other output of a verb may replace it."""
    whole = Path(os.path.realpath(path))  # of a link, where it leads
    for folder in whole.parents:
        if (folder / MANIFEST).is_file():
            name = whole.relative_to(folder).as_posix()
            if name == MANIFEST or name in _bundle_files(folder):
                raise UserError(f"{path} is a file of the bundle {folder}", "write elsewhere")


def _bundle_files(folder: Path) -> Collection[str]:
    """Files of a bundle; none of one that cannot be read."""
    try:
        return open_bundle(folder).manifest.files
    except UserError:
        return ()


class Draft:
    """A file in the making, which is hashed while it is written. `Writer.add` takes it into the bundle.

    A context manager: inside its block the file is open, and behind it complete.
    """

    def __init__(self, path: Path, bundle: Path, instead: str = ANOTHER_PATH) -> None:
        self.path = path
        self._bundle, self._instead = bundle, instead
        self._hash = hashlib.sha256()
        self._stream: IO[bytes] | None = None

    @property
    def sha256(self) -> str:
        """The hash of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def write(self, block: bytes | memoryview) -> None:
        """Append bytes. UserError where the disk is full."""
        assert self._stream is not None, "a draft is written inside its block"
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
    """The right to change one bundle.

    `manifest` is the bundle as it stands (None: there is none, or none that can be read); `files` maps what was added
    to it, by relative path, to its SHA-256; `instead` is what people can do where it cannot be written.
    """

    def __init__(self, bundle: Path, manifest: Manifest | None, instead: str = ANOTHER_PATH) -> None:
        self.bundle = bundle
        self.manifest = manifest
        self.instead = instead
        self.files: dict[str, str] = {}

    @property
    def known_files(self) -> dict[str, str]:
        """The files that the bundle has, and those that were added to it: relative path -> SHA-256."""
        return {**({} if self.manifest is None else self.manifest.files), **self.files}

    def scratch(self, name: str) -> Path:
        """A path for a file in the making; `add` moves it into the bundle."""
        folder = self.bundle / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder / name

    def draft(self, name: str) -> Draft:
        """A file to write piece by piece; `add` moves it into the bundle."""
        return Draft(self.scratch(name), self.bundle, self.instead)

    def reserve(self, size: int) -> None:
        """UserError if the disk has no room for `size` more bytes: said before hours of work, not behind them."""
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
        """Add a file that stays where it is, as `add` does."""
        with _report_write_errors(self.bundle, self.instead):
            self.reserve(path.stat().st_size)
            with self.draft(f"{name}{suffix}") as draft, path.open("rb") as stream:
                while block := stream.read(BLOCK):
                    draft.write(block)
        return self.add(draft, folder, name, suffix)

    def commit(self, manifest: Manifest) -> Manifest:
        """Make `manifest` the bundle, in one step; returns it with its `files` completed.

        `files` lists what the manifest refers to, each with the hash that `add` found or that it already had. What
        readers would refuse is refused here. What no longer belongs to the bundle is removed when the writer closes.
        """
        manifest = self._drop_lost_reports(manifest)
        sha256 = {**self.known_files, **manifest.files, **self.files}
        files = {path: sha256[path] for path in sorted(set(list_files(manifest)))}
        manifest = msgspec.structs.replace(manifest, files=files)
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        check_manifest(content, self.bundle)
        with _report_write_errors(self.bundle, self.instead):
            draft = self.scratch(MANIFEST)
            draft.write_bytes(content)
            _sync(draft)
            for folder in {self.bundle, *((self.bundle / path).parent for path in files if self._has(path))}:
                _sync(folder)
            check_interrupted()
            os.replace(draft, self.bundle / MANIFEST)
            _sync(self.bundle)
        self.manifest = manifest
        return manifest

    def _drop_lost_reports(self, manifest: Manifest) -> Manifest:
        """The manifest without reports that somebody has deleted: nothing else follows from those."""
        lost = {field: name for field in REPORTS if (name := getattr(manifest, field)) and not self._has(name)}
        for name in lost.values():
            LOG.warning("%s: file %s is missing, and the manifest names it no longer", self.bundle, name)
        return msgspec.structs.replace(manifest, **dict.fromkeys(lost))

    def _has(self, name: str) -> bool:
        return (self.bundle / name).is_file()

    def close(self) -> None:
        """Remove what no manifest names: former files after a commit, new ones after a failure.

        A commit may have been interrupted just behind its `os.replace`. So two manifests count: the one in place, and
        the last one of this writer that surely reached the disk.
        """
        shutil.rmtree(self.bundle / SCRATCH, ignore_errors=True)
        in_place = _current(self.bundle, must_exist=False)
        if in_place is not None or not (self.bundle / MANIFEST).exists():
            named = {name for each in (in_place, self.manifest) if each for name in each.files}
            _remove_garbage(self.bundle, named, self.files)


@contextmanager
def open_for_update(bundle: Path, must_exist: bool, instead: str = ANOTHER_PATH, *, verb: str = "") -> Iterator[Writer]:
    """Take the bundle's lock for as long as the block runs. What is not committed by its end is as if never written.

    `instead` is what people can do about a bundle that cannot be written. Files that a bundle has lost are a UserError
    here, and not after hours of work: but for reports, and for what `verb` makes again.
    """
    if must_exist:
        check_present(open_bundle(bundle), verb)  # before a lock or a folder is made
    if bundle.exists() and not bundle.is_dir():
        raise UserError(f"{bundle} is a file, not a folder", "give another path for the bundle")
    if _is_foreign(bundle / MANIFEST):
        raise UserError(f"{bundle} holds a {MANIFEST} of something else", "give another path for the bundle")
    if bundle.is_dir() and not _may_become_a_bundle(bundle):
        raise UserError(f"{bundle} is not empty and no bundle", "give a new folder")
    with _report_write_errors(bundle, instead):
        folders = [folder for folder in (bundle, *bundle.parents) if not folder.exists()]
        bundle.mkdir(parents=True, exist_ok=True)
        lock = _lock(bundle)
    writer = None
    try:
        writer = Writer(bundle, _current(bundle, must_exist), instead)
        yield writer
    except OSError as error:
        if error.errno in FULL:
            raise _unwritable(bundle, error, instead) from None
        raise
    finally:
        with delay_interrupts():
            _close(bundle, writer, lock, folders)


def _close(bundle: Path, writer: Writer | None, lock: int, made: Sequence[Path]) -> None:
    """Remove what no manifest names, let the lock go, and remove the folders `made` unless something is in them."""
    try:
        if writer is not None:
            writer.close()
    finally:
        with suppress(OSError):
            (bundle / LOCK).unlink()  # before the lock is let go: see `_lock`
        os.close(lock)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()  # succeeds only if nothing was left in it


def check_room(bundle: Path, size: int, instead: str = ANOTHER_PATH) -> None:
    """UserError if the disk of a bundle, which may be yet to be made, has no room for `size` more bytes."""
    free = shutil.disk_usage(existing_parent(bundle)).free
    if size > free:
        what = f"{bundle} needs {_format_bytes(size)} more, and its disk has {_format_bytes(free)} free"
        raise UserError(what, f"free space or {instead}")


def existing_parent(folder: Path) -> Path:
    """The first folder above that exists: its disk has to hold what is written."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


@contextmanager
def _report_write_errors(bundle: Path, instead: str = ANOTHER_PATH) -> Iterator[None]:
    """A full disk or a folder without permission, in one line."""
    try:
        yield
    except OSError as error:
        raise _unwritable(bundle, error, instead) from None


def _format_bytes(size: int) -> str:
    """Bytes as people say them."""
    unit, scale = next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))
    return f"{size / scale:.3g} {unit}"


def _unwritable(bundle: Path, error: OSError, instead: str) -> UserError:
    cure = "free space" if error.errno in FULL else "make it writable"
    return UserError(f"{bundle} cannot be written ({error.strerror})", f"{cure} or {instead}")


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


def _may_become_a_bundle(folder: Path) -> bool:
    """True for a bundle, an empty folder, and one that a writer was killed in before its first commit."""
    if (folder / MANIFEST).exists():
        return True
    with _report_write_errors(folder):
        return all(path.name in (LOCK, SCRATCH) or _is_of_content(path) for path in folder.iterdir())


def _is_of_content(folder: Path) -> bool:
    """True if a folder holds only files that `add` has named, or nothing."""
    with suppress(FileNotFoundError):  # its writer is at work
        return folder.is_dir() and all(CONTENT_NAME.fullmatch(path.name) for path in folder.iterdir())
    return True


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


def _remove_garbage(bundle: Path, named: set[str], own: Collection[str]) -> None:
    """Remove files that `add` once wrote and no manifest names. A file that is in use elsewhere stays for next time.

    The folder may hold other files, even other bundles: only what carries the hash of its own content, where `add`
    puts it, is ours. That this writer added `own` need not be found out from their content.
    """
    removed = set()
    for path in [p for p in bundle.glob("*/*") if p.relative_to(bundle).as_posix() not in named]:
        with suppress(OSError):
            match = CONTENT_NAME.fullmatch(path.name)
            is_own = path.relative_to(bundle).as_posix() in own
            if match and path.is_file() and (is_own or file_sha256(path).startswith(match[1])):
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
