"""`fewstep push`: upload a bundle and its card to a hub, and print the commit; or, as a dry run, the files and the
card."""

from rich.filesize import decimal

from fewstep.cli.next_command import next_command
from fewstep.cli.outcome import Outcome, pluralize
from fewstep.cli.push.push import PushOptions, prepare, push
from fewstep.cli.tables import table
from fewstep.export.sources.card import CARD
from fewstep.runtime.progress import Progress


def verb(options: PushOptions, progress: Progress) -> Outcome:
    commit = push(options, progress)
    line = f"{commit.address}: {pluralize(commit.files, 'file')}, {decimal(commit.bytes)}"
    return Outcome(commit, (line,), then=next_command("run", commit.model))


def dry_run(options: PushOptions) -> Outcome:
    publication = prepare(options)
    sizes, card = publication.sizes, publication.contents[CARD].decode()
    rows = [(name, decimal(size)) for name, size in sizes.items()]
    line = f"would push {pluralize(len(sizes), 'file')}, {decimal(sum(sizes.values()))}, to {options.name}"
    value = {"name": options.name, "files": sizes, "bytes": sum(sizes.values()), "card": card}
    return Outcome(value, (table(("file", "size"), rows), *card.splitlines(), line))
