"""The verbs. Only the requested one is imported, so `fewstep run` works where torch and onnx are not installed."""

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
from fewstep.cli.repeated_options import find_repeated_option
from fewstep.cli.verbs import VERBS
from fewstep.plans.errors import UserError, printable
from fewstep.runtime.interrupts import check_interrupted
from fewstep.runtime.progress import ESTIMATES

ALL = "--help-all"  # --help, including the expert options
INTERRUPTED = 130  # typer's exit code for a KeyboardInterrupt


def run(arguments: list[str], manner: OutputOptions) -> int:
    """Parse and run a command line, print the outcome, and return the exit code.

    Raises UserError for anything the user can fix. Other exceptions pass through. With --json, stdout receives only the
    document; anything else that the verb prints goes to stderr.
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
    if manner.quiet or manner.json:  # huggingface_hub reads these variables when it is imported
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
                if (twice := find_repeated_option(module.verb, arguments)) is not None:
                    raise CommandLineError(f"{twice} is given twice", "give it once")
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
            message = getattr(error, "format_message", None)  # the parser's errors share only this method
            if message is None:
                raise
            from fewstep.cli.missing_parameter import missing_parameter  # loads the reader of bundles

            if asked is not None and (missing := missing_parameter(error, asked, module.verb)) is not None:
                raise missing from error
            see = f"see {' '.join(filter(None, ['fewstep', asked]))} --help"
            what = message().replace(": Value error, ", ": ").rstrip(".")  # a prefix of the parser
            raise CommandLineError(" ".join(what.split()), see) from error
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    check_interrupted()
    if isinstance(printed, io.StringIO):
        text = printed.getvalue()
        if outcomes:  # printed by the exported user code, or by a library
            sys.stderr.write(text)
        else:
            outcomes.append(Outcome({"help": text}))
    for outcome in outcomes:
        print_outcome(outcome, manner)
        code = code or outcome.code
    return int(code)


@contextmanager
def _log_to_stderr(manner: OutputOptions) -> Iterator[None]:
    """Write the library's log messages to stderr while the block runs."""
    log, handler = logging.getLogger("fewstep"), _Stderr()
    handler.setFormatter(logging.Formatter("fewstep: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(_log_level(manner))
    ESTIMATES.setLevel(logging.NOTSET if manner.quiet else logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        ESTIMATES.setLevel(logging.NOTSET)
        log.removeHandler(handler)


def _log_level(manner: OutputOptions) -> int:
    if manner.debug:
        return logging.DEBUG
    if manner.verbose:
        return logging.INFO
    return logging.ERROR if manner.quiet else logging.WARNING


class _Stderr(logging.Handler):
    """Writes log messages to the current `sys.stderr`, which progress bars replace so that messages do not break the
    bars."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(self.format(record)), file=sys.stderr)


def _declare_flags() -> Callable[..., None]:
    """Declare, for --help, the options that `main` has already handled."""

    def group(**_: bool) -> None: ...

    return set_parameters(group, [flag_parameter("version", ("--version",), "Show the version."), *manner_parameters()])


def _do_nothing() -> None:
    """Placeholder for a verb in the list of --help."""
