"""The option --tiles: sampling a large sample in overlapping windows."""

from collections.abc import Mapping
from dataclasses import dataclass

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.kinds.companions import latent_size
from fewstep.runtime.kinds.sizes import apply_sizes
from fewstep.runtime.runs.tiles import Tiles

FIX = "write it as --tiles 256:64, the window's size and the overlap"
NAMES = {3: {"height": 1, "width": 2}}  # axes of x of a fixed bundle, by the number of axes; otherwise "length"


@dataclass(frozen=True)
class Tiling:
    """The `shape` of the whole sample, and the `sizes` of a window."""

    shape: tuple[int, ...]
    sizes: Mapping[str, int]
    tiles: Tiles


def refuse_long(sizes: Mapping[str, int], manifest: Manifest, source: str = "") -> None:
    """Raise UserError for a size of x above its range, which names windows and pieces where a plan can run over them.
    `source` begins the line: the name of a file that gives the size."""
    if not manifest.space.has_squared_error or manifest.carried:
        return
    for size in manifest.sizes:
        if size.axis is not None and (number := sizes.get(size.name, 0)) > size.high:
            windows = f"sample it in windows of up to {size.high} (--size {size.name}={number} --tiles WINDOW:OVERLAP)"
            latents = latent_size(manifest, size.name, number)
            pixels = f"--size counts latents: of {number} pixels it is {latents}; " if latents is not None else ""
            raise UserError(
                f"{source}{size.name} {number} is outside its range",
                f"{pixels}give {size.range}, or {windows}, or in pieces (docs/compose.md)",
            )


def parse_tiling(text: str | None, sizes: Mapping[str, int], manifest: Manifest) -> Tiling | None:
    """Parse WINDOW:OVERLAP for a sample of the given sizes. None without it. Raises UserError if the bundle cannot
    sample windows of that size, or one sample of these sizes."""
    if text is None:
        refuse_long(sizes, manifest)
        return None
    window, colon, overlap = text.partition(":")
    if not (colon and window.isdecimal() and overlap.isdecimal()):
        raise UserError(f"tiles {text!r} are not WINDOW:OVERLAP", FIX)
    free = {size.name: size.axis for size in manifest.sizes if size.axis is not None}
    axes = free or NAMES.get(len(manifest.x_shape), {"length": len(manifest.x_shape) - 1})
    if not sizes or not set(sizes) <= set(axes):
        given = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(
            "--tiles needs the size of the whole sample" + (f" (--size gives {given})" if sizes else ""),
            f"give it by --size {'=N --size '.join(axes)}=N",
        )
    parts = {name: int(window) for name in sizes} if free else {}
    takes = apply_sizes(manifest, parts)
    for name in sizes:
        if takes.x_shape[axes[name]] != int(window):
            raise UserError(
                f"windows of {window} do not fit a bundle whose {name} is {takes.x_shape[axes[name]]}",
                f"give --tiles {takes.x_shape[axes[name]]}:{overlap}",
            )
    by_axis = {axes[name]: size for name, size in sizes.items()}
    shape = tuple(by_axis.get(axis, size) for axis, size in enumerate(takes.x_shape))
    return Tiling(shape, parts, Tiles(int(overlap)))
