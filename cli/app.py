"""The verbs. Only the one asked for is imported: `fewstep run` works where torch and onnx are not installed."""

import importlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches

import typer

from fewstep.cli.errors import CommandLineError
from fewstep.cli.generate import flag_parameter, make_command, manner_parameters, set_parameters
from fewstep.cli.outcome import Outcome, print_outcome
from fewstep.cli.output_flags import OutputOptions
from fewstep.cli.progress import progress_display
from fewstep.cli.removed_options import SUCCESSORS, find_removed_option
from fewstep.cli.verbs import VERBS
from fewstep.plans.errors import UserError, printable
from fewstep.runtime.interrupts import check_interrupted
from fewstep.runtime.progress import AHEAD

ALL = "--help-all"  # --help with the options for experts
INTERRUPTED = 130  # how typer tells of a KeyboardInterrupt


def run(arguments: list[str], manner: OutputOptions) -> int:
    """Parse, run and print; the exit code. Everything that goes wrong is a UserError, or passes through.

    With --json stdout holds the document alone, whatever a verb runs prints.
    """
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    if asked in SUCCESSORS:
        raise CommandLineError(f"{asked} is part of measure", SUCCESSORS[asked])
    if asked is not None and asked not in VERBS:
        near = get_close_matches(asked, VERBS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"give one of {', '.join(VERBS)}"
        raise CommandLineError(f"unknown verb {asked!r}", fix)
    if asked is not None and (removed := find_removed_option(asked, arguments)) is not None:
        raise CommandLineError(f"{asked} has no option {removed[0]}", f"give {removed[1]}")
    shows_all = ALL in arguments
    arguments = ["--help" if argument == ALL else argument for argument in arguments]
    if manner.quiet or manner.json:  # read when a library is imported that fetches models
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    outcomes: list[Outcome] = []
    with _log_to_stderr(manner), progress_display(manner.quiet) as progress:
        app = typer.Typer(
            name="fewstep",
            help="Diffusion denoisers from PyTorch to verified ONNX, int8 and engines.",
            add_completion=False,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        app.callback()(_declare_flags())
        for name, verb in VERBS.items():
            if name == asked:
                module = importlib.import_module(f"fewstep.cli.verbs.{name}")
                called = make_command(
                    module.verb, progress, outcomes.append, getattr(module, "dry_run", None), shows_all=shows_all
                )
                app.command(name, epilog=f"Example: {verb.example}. --help-all shows options for experts too.")(called)
            else:
                app.command(name, help=verb.summary, rich_help_panel=verb.group)(_do_nothing)
        printed = io.StringIO() if manner.json else sys.stdout
        try:
            with redirect_stdout(printed):
                code = app(arguments, prog_name="fewstep", standalone_mode=False) or 0
        except typer.Abort:
            raise KeyboardInterrupt from None
        except UserError:
            raise
        except Exception as error:
            message = getattr(error, "format_message", None)  # what a command line parser's errors have in common
            if message is None:
                raise
            see = f"see {' '.join(filter(None, ['fewstep', asked]))} --help"
            what = message().replace(": Value error, ", ": ").rstrip(".")  # the words of the parser's own parser
            raise CommandLineError(" ".join(what.split()), see) from error
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    check_interrupted()
    if isinstance(printed, io.StringIO):
        text = printed.getvalue()
        if outcomes:  # it comes from code that was exported, or from a library
            sys.stderr.write(text)
        else:
            outcomes.append(Outcome({"help": text}))
    for outcome in outcomes:
        print_outcome(outcome, manner)
        code = code or outcome.code
    return int(code)


@contextmanager
def _log_to_stderr(manner: OutputOptions) -> Iterator[None]:
    """Messages of the library, on stderr, for as long as the block runs."""
    log, handler = logging.getLogger("fewstep"), _Stderr()
    handler.setFormatter(logging.Formatter("fewstep: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(_log_level(manner))
    AHEAD.setLevel(logging.NOTSET if manner.quiet else logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        AHEAD.setLevel(logging.NOTSET)
        log.removeHandler(handler)


def _log_level(manner: OutputOptions) -> int:
    if manner.debug:
        return logging.DEBUG
    if manner.verbose:
        return logging.INFO
    return logging.ERROR if manner.quiet else logging.WARNING


class _Stderr(logging.Handler):
    """Writes to the stderr of the moment: progress bars put their own in its place, to keep lines and bars apart."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(self.format(record)), file=sys.stderr)


def _declare_flags() -> Callable[..., None]:
    """Declares the options that `main` has already acted on, for --help."""

    def group(**_: bool) -> None: ...

    return set_parameters(group, [flag_parameter("version", ("--version",), "Show the version."), *manner_parameters()])


def _do_nothing() -> None:
    """Stands for a verb in the list that --help shows."""
