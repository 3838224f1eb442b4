"""`fewstep cache`: show or clear the cache folder of this user."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.filesize import decimal
from rich.table import Table

from fewstep.cli.outcome import Outcome, pluralize
from fewstep.cli.tables import table
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.cache import folder
from fewstep.runtime.machine.cache_contents import PURPOSES, Content, clear, contents
from fewstep.runtime.options import Options
from fewstep.runtime.progress import Progress

ALL = "all"


@dataclass(frozen=True)
class CacheOptions(Options):
    """Show the contents of this user's cache folder, or clear it.

    clear: Kinds of content to remove, as engines,jit; or all. The next commands take longer.
    """

    clear: tuple[str, ...] = ()


def verb(options: CacheOptions, progress: Progress) -> Outcome:
    content, removed = _read(options)
    try:
        clear(cache.kind for cache in removed)
    except OSError as error:
        fix = "end the commands that write there, or check its permissions"
        raise UserError(f"{error.filename} cannot be removed ({error.strerror})", fix) from error
    return _outcome(content, removed, "removed")


def dry_run(options: CacheOptions) -> Outcome:
    return _outcome(*_read(options), "would remove")


def _read(options: CacheOptions) -> tuple[Sequence[Content], Sequence[Content]]:
    """Return all content of the folder, and the part that the options name."""
    try:
        content = contents()
    except OSError as error:
        raise UserError(f"the cache folder cannot be read ({error})", "set XDG_CACHE_HOME to another folder") from error
    names = {ALL, *PURPOSES, *(cache.kind for cache in content)}
    for kind in options.clear:
        if kind not in names:
            raise UserError(f"the cache folder has no kind {kind!r}", f"give one of {', '.join(sorted(names))}")
    return content, [cache for cache in content if {ALL, cache.kind} & set(options.clear)]


def _outcome(content: Sequence[Content], removed: Sequence[Content], did: str) -> Outcome:
    """Return the outcome. `removed` is the part of the content that is, or would be, removed."""
    value = {"folder": folder(), "content": content, did.replace(" ", "_"): [cache.kind for cache in removed]}
    return Outcome(value, (_table(content), *_lines(removed, did)) if content else (f"{folder()}: empty",))


def _table(content: Collection[Content]) -> Table:
    rows = []
    for cache in content:
        latest, earliest = (f"{days:.0f}" for days in cache.days)
        days = latest if latest == earliest else f"{latest} to {earliest}"
        what = cache.purpose or "unknown to this version of fewstep"
        rows.append((cache.kind, str(cache.files), decimal(cache.bytes), days, what))
    title = f"{folder()}: {decimal(sum(cache.bytes for cache in content))}"
    return table(("kind", "files", "size", "days", "what"), rows, text=("kind", "what"), title=title)


def _lines(removed: Sequence[Content], did: str) -> Iterator[str]:
    if removed:
        files, size = sum(cache.files for cache in removed), decimal(sum(cache.bytes for cache in removed))
        yield f"{did} {', '.join(cache.kind for cache in removed)}: {pluralize(files, 'file')}, {size}"
