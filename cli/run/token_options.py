"""The options of a run that depend on the sample space of its denoiser."""

from fewstep.cli.run.options import RunOptions
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import Bundle


def check_token_options(options: RunOptions, bundle: Bundle) -> None:
    """Raise UserError for options that do not apply to a token denoiser, and for known tokens of any other denoiser."""
    if not bundle.manifest.vocabulary:
        if options.known is not None and options.image is None:
            raise UserError(
                f"--known {options.known} keeps a part of an image", "add --image FILE, or leave --known out"
            )
        return
    for name in ("clip", "image", "tiles"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name} does not apply to a token denoiser", f"leave --{name} out")
    if not options.is_array:
        raise UserError(f"the samples of {bundle.path} are tokens, not images", "write a .npy file")
