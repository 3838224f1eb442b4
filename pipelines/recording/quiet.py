"""Suppress the warnings of diffusers and transformers while a pipeline is recorded, such as those about truncated
prompts or missing packages."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.runtime.backends.checks import import_package

LIBRARIES = ("diffusers", "transformers")


@contextmanager
def silence_libraries() -> Iterator[None]:
    """While active, suppress warnings and log messages of diffusers and transformers. Errors are still raised. Raises
    UserError if one of both cannot be imported."""
    for library in LIBRARIES:  # diffusers sets the levels of its messages when it is imported
        import_package(library, f"a pipeline of diffusers needs {library}, which", f"pip install {library}")
    loggers = [logging.getLogger(library) for library in LIBRARIES]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
