"""What a library's error says, for a sentence of our own."""

MAX_LENGTH = 300


def first_line(error: BaseException) -> str:
    """The first line, of at most 300 characters, of what the error at the root of `error` says.

    The root is what it was raised from, if anything; the name of its type stands for an error without words.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:MAX_LENGTH]
