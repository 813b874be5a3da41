"""Context managers for calls into transformers: no progress bars or warnings, and one type of error."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from transformers.utils import logging

from subcircuit.errors import ModelError


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars and log messages below errors inside the block; restore the settings after it."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # the GGUF reader's progress bar ignores the setting
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Suppress output, and turn any error that malformed files cause into a ``ModelError``: "``what``: its first line"."""
    try:
        with quiet():
            yield
    except ModelError:
        raise
    except BaseException as error:
        # a panic in the Rust code of tokenizers or safetensors is not an Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ModelError(f"{what}: {first_line(error)}") from None
        raise


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
