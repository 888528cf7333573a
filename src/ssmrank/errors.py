"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """One line: what is wrong, where (file and line, key, model, query), and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
