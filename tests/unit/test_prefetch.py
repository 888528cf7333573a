from __future__ import annotations

import pytest

from ssmrank.prefetch import prefetch


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
