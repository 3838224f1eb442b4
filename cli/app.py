"""The verbs. Only the one asked for is imported: `fewstep run` works where torch and onnx are not installed."""

import importlib
import logging

import typer

from fewstep.cli.generate import command
from fewstep.cli.progress import Shown
from fewstep.runtime.errors import UserError

VERBS = {  # each is a module of this package, with a function `verb(options, progress)`
    "export": "Turn a torch denoiser into a verified ONNX bundle.",
    "calibrate": "Measure a bundle along its plan and lower it to int8.",
    "build": "Build engines for a bundle ahead of time.",
    "run": "Sample a bundle into an image grid.",
    "report": "Judge a bundle: quality, coverage, speed, size.",
    "demo": "Do all of it, on a shipped model.",
}
INTERRUPTED = 130  # how typer tells of a KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Parse and run; the exit code. A UserError passes through; a wrong command line is exit code 2."""
    logging.basicConfig(format="fewstep: %(message)s", level=logging.WARNING)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    if asked is not None and asked not in VERBS:
        return _refuse(f"unknown verb {asked!r}; one of {', '.join(VERBS)}")
    with Shown() as progress:
        app = typer.Typer(
            name="fewstep",
            help="Diffusion denoisers from PyTorch to verified ONNX, int8 and engines.",
            add_completion=False,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        app.callback()(_group)
        for name, summary in VERBS.items():
            if name == asked:
                module = importlib.import_module(f"fewstep.cli.{name}")
                app.command(name)(command(module.verb, progress))
            else:
                app.command(name, help=summary)(_not_asked)
        try:
            code = app(arguments, prog_name="fewstep", standalone_mode=False) or 0
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            return code
        except typer.Abort:
            raise KeyboardInterrupt from None
        except UserError:
            raise
        except Exception as error:
            message = getattr(error, "format_message", None)  # what a command line parser's errors have in common
            if message is None:
                raise
            return _refuse(f"{message().rstrip('.')}; see {' '.join(filter(None, ['fewstep', asked]))} --help")


def _group(
    version: bool = typer.Option(False, "--version", help="Show the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Declares the options that `main` has already acted on, for --help."""


def _not_asked() -> None:
    """Stands for a verb in the list that --help shows."""


def _refuse(message: str) -> int:
    typer.echo(f"fewstep: {' '.join(message.split())}", err=True)
    return 2
