from __future__ import annotations

import pytest

from ssmrank.errors import UserError
from ssmrank.io.sizes import parse_bytes, show_bytes


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 0), (1500, 1500), ("0", 0), ("2GB", 2 * 10**9), ("2 gb", 2 * 10**9), ("1.5GiB", 3 * 2**29), ("7B", 7),
     ("500m", 5 * 10**8), ("10kb", 10_000), (" 1TB ", 10**12), ("1e9", None), ("", None), ("GB", None), ("-1GB", None),
     (-1, None), ("2 XB", None), (True, None), (None, None), (float("inf"), None), ("2GB 3", None)],
)  # fmt: skip
def test_sizes(size, expected):
    if expected is None:
        with pytest.raises(UserError, match=r"^state_cache .*: is no size; give a number of bytes, such as 2GB"):
            parse_bytes(size, "state_cache")
    else:
        assert parse_bytes(size, "state_cache") == expected


def test_shown_sizes():
    sizes = [0, 999, 1000, 1_250_000, 2 * 10**9, 3.3e12]
    assert [show_bytes(size) for size in sizes] == ["0 B", "999 B", "1 KB", "1.25 MB", "2 GB", "3.3 TB"]
