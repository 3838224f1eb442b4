"""`fewstep pack`: write a smaller bundle for deployment, and print the packed bodies and their size."""

from rich.filesize import decimal

from fewstep.cli.next_command import next_command
from fewstep.cli.outcome import Outcome
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.runtime.progress import Progress


def verb(options: PackOptions, progress: Progress) -> Outcome:
    manifest = pack(options)
    size = sum((options.output / name).stat().st_size for name in manifest.files)
    return Outcome(
        {"bundle": options.output, "bodies": tuple(manifest.bodies), "bytes": size},
        (f"{options.output}: {', '.join(manifest.bodies)}, {decimal(size)}",),
        then=next_command("verify", options.output),
    )
