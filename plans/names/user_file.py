"""Modules of user-supplied files, and of the files that they import from their own folders.

Python keeps one module for each name, and compiled code until the second or the size of its source changes. Here each
folder has its own modules, and their code is that of their files.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import FileFinder, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from fewstep.plans.errors import STOPS, UserError, error_line


@dataclass(frozen=True)
class _Siblings:
    """The modules that files imported from their folder, by name, and the hashes of their files."""

    modules: dict[str, ModuleType]
    digests: dict[Path, str]


FOLDERS: dict[Path, _Siblings] = {}
LOADED: dict[Path, tuple[ModuleType, dict[Path, str]]] = {}  # modules of files, with hashes of the files they import


class _SourceLoader(SourceFileLoader):
    """Loads a module from its source only, because compiled code is out of date after an edit in the same second."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _FolderFinder:
    """Finds the modules of one folder, for `sys.meta_path`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Return how the folder loads a module, or None if it has no source of it."""
        places = [str(self.folder)] if path is None else [each for each in path if _is_in(each, self.folder)]
        found = [FileFinder(place, (_SourceLoader, [".py"])).find_spec(fullname) for place in places]
        return next((spec for spec in found if spec is not None and spec.loader is not None), None)


def load_file(home: str) -> ModuleType:
    """Return the module of a file. The file runs again if it or a module that it imports from its folder changed."""
    file = Path(home).absolute()
    if file in LOADED:
        module, digests = LOADED[file]
        if digests == {digest: _digest(digest) for digest in digests}:
            return module
    digest = _digest(file)
    with allow_sibling_imports(file.parent):
        module = run_file(home)
    LOADED[file] = module, {**FOLDERS[file.parent].digests, file: digest}
    return module


def digests_of(file: Path) -> dict[Path, str]:
    """Return the SHA-256 of a file that was loaded, and of those that it imported from its folder; {} for others."""
    return LOADED[file.absolute()][1] if file.absolute() in LOADED else {}


def run_file(home: str) -> ModuleType:
    """Run the file `home` again and return its module. Raises UserError if there is no such file, or if it fails."""
    file = Path(home).absolute()  # the form in tracebacks
    if not file.is_file():
        raise UserError(f"there is no file {home}", "check the path before the colon")
    if file.stem in sys.stdlib_module_names:
        raise UserError(f"{file.name} has the name of a module of Python's standard library", "rename the file")
    name = file.stem
    if _is_importable(name, file.parent):  # other code imports that module
        name = f"{file.stem}_of_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    specification = importlib.util.spec_from_file_location(name, file, loader=_SourceLoader(name, str(file)))
    assert specification is not None and specification.loader is not None  # a .py file has a loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickles of the file look the module up there
    try:
        specification.loader.exec_module(module)
    except (UserError, *STOPS):
        raise
    except BaseException as error:
        reason = error_line(error, file)
        raise UserError(f"{file.name} cannot be imported: {reason}", "make `python FILE` run without error") from error
    return module


@contextmanager
def allow_sibling_imports(folder: Path) -> Iterator[None]:
    """Let a file import modules in its folder, as it can when it is run as a script.

    A module of the same name from another user's folder is imported again, from this folder, and so are all modules of
    this folder after one of their files changed. A module that an installed one shares its name with is not left in
    `sys.modules`, where other code would get it.
    """
    own = FOLDERS.get(folder, _Siblings({}, {}))
    held = dict[str, ModuleType]()  # modules that other code imported under the names of siblings
    for home, siblings in FOLDERS.items():
        for name, module in siblings.modules.items():
            if home == folder or any(file.exists() for file in _files_of(name, folder)):
                known = sys.modules.pop(name, module)
                held |= {} if known is module else {name: known}
    if own.digests == {file: _digest(file) for file in own.digests}:
        sys.modules.update(own.modules)
    before = set(sys.modules) - set(own.modules)
    finder = _FolderFinder(folder)
    sys.path.insert(0, str(folder))  # for extension modules and folders without __init__.py
    sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(folder))
        found = {name: sys.modules[name] for name in set(sys.modules) - before}
        modules = {name: module for name, module in found.items() if _is_sibling(name, module, folder)}
        files = [Path(module.__file__ or "") for module in modules.values()]
        FOLDERS[folder] = _Siblings(modules, {file: _digest(file) for file in files})
        for name in modules:
            if _is_importable(name.partition(".")[0], folder):
                del sys.modules[name]
        sys.modules.update({name: module for name, module in held.items() if name not in sys.modules})


def _is_importable(name: str, folder: Path) -> bool:
    """Return True if `import name` finds a module that is not in `folder`, without importing it."""
    path, finders = sys.path[:], sys.meta_path[:]
    imported = {known: sys.modules.pop(known) for known in [name] if _is_known_in(known, folder)}
    if name in sys.modules:
        return True
    sys.path[:] = [place for place in path if Path(place).absolute() != folder]
    sys.meta_path[:] = [finder for finder in finders if not isinstance(finder, _FolderFinder)]
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    finally:
        sys.path[:], sys.meta_path[:] = path, finders
        sys.modules.update(imported)
    return found is not None and found.origin is not None  # a folder without __init__.py has no origin


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file, or "" if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _is_known_in(name: str, folder: Path) -> bool:
    """Return True if a module is imported, and comes from `folder`."""
    return name in sys.modules and _is_sibling(name, sys.modules[name], folder)


def _is_sibling(name: str, module: ModuleType, folder: Path) -> bool:
    """Return True if a module of this name comes from `folder`."""
    file = Path(getattr(module, "__file__", None) or "")
    return any(file.is_relative_to(home) for home in _files_of(name, folder))


def _files_of(name: str, folder: Path) -> tuple[Path, Path]:
    """Return the file and the package's folder that a module of this name has in `folder`."""
    top = name.partition(".")[0]
    return folder / f"{top}.py", folder / top


def _is_in(place: str, folder: Path) -> bool:
    return Path(place).is_relative_to(folder)
