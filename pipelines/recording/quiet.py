"""Suppress the warnings of diffusers and transformers while a pipeline is recorded, such as those about truncated
prompts or missing packages."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silence_libraries() -> Iterator[None]:
    """While active, suppress warnings and log messages of diffusers and transformers. Errors are still raised."""
    import diffusers  # sets the levels of its messages when it is imported
    import transformers

    loggers = [logging.getLogger(name) for name in (diffusers.__name__, transformers.__name__)]
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
