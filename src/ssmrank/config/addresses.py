"""Addresses of servers, which may hold a password that no file and no message should."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"""(?P<before>://[^\s/@:'"]*:)[^\s'"]*(?P<after>@)|(?P<key>[?&](?:ssl)?password=)[^\s&'"]*""")
"""A password in an address. It may hold any sign, because people forget to quote them."""


def masked(text: str) -> str:
    """A text with `***` in place of the password of each address in it."""
    return _PASSWORD.sub(lambda found: f"{found['before'] or found['key']}***{found['after'] or ''}", text)


def has_password(address: str) -> bool:
    """Whether an address holds a password."""
    return _PASSWORD.search(address) is not None
