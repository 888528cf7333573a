"""The one exception that means "the user can fix this"."""

_SHOWN = 60


class UserError(Exception):
    """A message of one line: what is wrong, where (file and line, key, model, query) and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def shown(value: object) -> str:
    """The repr of a value, cut to 60 characters, because a value from a file may be of any length."""
    try:
        text = repr(value[:_SHOWN] if isinstance(value, str | bytes) else value)
    except ValueError:  # Python does not convert integers of more than 4,300 digits to text
        return "a number of thousands of digits"
    except RecursionError:
        return "a value that contains itself"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def reason_of(error: Exception) -> str:
    """The first line of another library's error, or its type's name if it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def one_line(error: UserError) -> str:
    """The message on one line, with unprintable characters escaped, because a terminal could act on them."""
    text = " ".join(str(error).splitlines())
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
