"""A first request to a server, which may never answer; clients try again for minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable


def ask(question: Callable[[], object], seconds: float) -> Exception | None:
    """The error of a request, or a TimeoutError if there is no answer in time; None if all is well.

    The request then goes on in its thread, which does not keep the process alive.
    """
    answers: list[Exception | None] = []

    def wait() -> None:
        try:
            question()
        except Exception as error:  # each kind of server has its own
            answers.append(error)
        else:
            answers.append(None)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(seconds)
    return answers[0] if answers else TimeoutError(f"it has not answered for {seconds:g} s")
