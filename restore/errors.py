"""What can go wrong for a user, each with the exit code that the command line gives it."""


class RestoreError(Exception):
    """Base of the errors that say, in one line, what is wrong and what to do."""

    exit_code = 1


class InputError(RestoreError, ValueError):
    """Bad input or usage: a broken file, a mask that does not fit, an unknown option."""

    exit_code = 2


class WriteError(InputError):
    """What cannot be written: a full disk, a read-only folder."""


class PriorError(RestoreError):
    """The prior is not there."""

    exit_code = 4


class OutOfMemory(RestoreError):  # noqa: N818 - as torch and the shell name it
    """Out of memory even at the smallest tile."""

    exit_code = 5


class DivergedError(RestoreError, FloatingPointError):
    """A network or a sampler produced NaN or infinity."""

    exit_code = 1


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out; torch has a class of its own for it on GPUs alone."""
    texts = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(text in str(error) for text in texts)
