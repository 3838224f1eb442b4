"""`fewstep pack`: write a smaller bundle for deployment, and print the packed bodies and their size."""

from rich.filesize import decimal

from fewstep.cli.next_command import next_command
from fewstep.cli.outcome import Outcome
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress


def verb(options: PackOptions, progress: Progress) -> Outcome:
    manifest = pack(options)
    sizes = {name: (options.output / name).stat().st_size for name in manifest.files}
    size, largest = sum(sizes.values()), max(sizes, key=sizes.__getitem__)
    source = sum((options.bundle / name).stat().st_size for name in open_bundle(options.bundle).manifest.files)
    said = f"{decimal(size)}, {decimal(sizes[largest])} of it in {largest}; {options.bundle} has {decimal(source)}"
    return Outcome(
        {"bundle": options.output, "bodies": tuple(manifest.bodies), "bytes": size},
        (f"{options.output}: {', '.join(manifest.bodies)}, {said}",),
        then=next_command("verify", options.output),
    )
