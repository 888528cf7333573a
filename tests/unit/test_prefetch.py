from __future__ import annotations

import sys
import threading

import pytest

from ssmrank.lock_turns import short_turns
from ssmrank.prefetch import Prefetched, prefetch


def test_prefetch_gives_all_items_and_the_error_of_one():
    assert list(prefetch(iter(range(10)), 2)) == list(range(10))
    assert list(prefetch([None, 0], 1)) == [None, 0]

    def items():
        yield 1
        raise KeyError("two")

    made = prefetch(items(), 3)
    assert next(made) == 1
    with pytest.raises(KeyError, match="two"):
        next(made)


def test_items_are_made_before_they_are_asked_for_until_it_is_closed():
    made, both, third = [], threading.Event(), threading.Event()

    def items():
        for number in range(9):
            made.append(number)
            if number == 1:
                both.set()
            if number == 2:
                assert third.wait(30)
            yield number

    with Prefetched(items()) as ahead:
        assert both.wait(30)
        assert next(ahead) == 0
        ahead._stop.set()
        third.set()
    assert not ahead._thread.is_alive()
    assert made == [0, 1, 2]


def test_the_end_and_an_error_are_told_again():
    ahead = Prefetched([1])
    assert [*ahead] == [1] and [*ahead] == []
    failing = Prefetched(1 / number for number in (1, 0))
    assert next(failing) == 1
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            next(failing)


def test_turns_are_as_long_as_before_when_the_last_context_ends():
    usual = sys.getswitchinterval()
    first, second = short_turns(), short_turns()
    first.__enter__()
    second.__enter__()
    assert sys.getswitchinterval() < usual
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() < usual
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == usual
