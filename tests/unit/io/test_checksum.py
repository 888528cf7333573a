"""SHA-256 against the digests of FIPS 180-4's examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmrank.errors import UserError
from ssmrank.io.checksum import sha256, verify_sha256

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_known_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == ABC
    verify_sha256(tmp_path / "a", ABC)


def test_wrong_digest_names_both(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(UserError) as caught:
        verify_sha256(tmp_path / "a", "0" * 64)
    assert str(caught.value).startswith(f"{tmp_path / 'a'}: sha256 is {ABC}, expected {'0' * 64}; the file is damaged")
    assert "\n" not in str(caught.value)
