"""An S3 server: moto's, a process of its own on a free port of this machine."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NUMBERS = itertools.count(1)

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
"""The server takes any keys; clients refuse to send a request without some."""


class S3:
    """A running server with its address, and a client of it."""

    def __init__(self, endpoint: str, empty: Path) -> None:
        """`endpoint` is like `http://127.0.0.1:41234`; `empty` is a file that stands for a home without AWS's files."""
        import boto3

        self.endpoint = endpoint
        # A person's own profile, proxy and instance role have no part in tests.
        self.no_credentials = {
            "AWS_CONFIG_FILE": str(empty),
            "AWS_SHARED_CREDENTIALS_FILE": str(empty),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        self.environment = self.no_credentials | CREDENTIALS
        """Variables that processes need to reach the server."""
        names = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        keys = {name: CREDENTIALS[variable] for name, variable in names.items()}
        self.client: Any = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{next(NUMBERS)}"
        self.client.create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Keys of all objects of a bucket that begin with the prefix, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(one["Key"] for page in pages for one in page.get("Contents", []))

    def read(self, bucket: str, key: str) -> bytes:
        """The content of an object."""
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """Writes an object."""
        self.client.put_object(Bucket=bucket, Key=key, Body=content)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A running S3 server; it ends with the session."""
    pytest.importorskip("moto", reason="the S3 server comes with the extra dev (moto)")
    folder = tmp_path_factory.mktemp("s3")
    empty, log = folder / "no-profile", folder / "server.log"
    empty.touch()
    command = [str(Path(sys.executable).parent / "moto_server"), "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as stream:
        server = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield S3(_address(server, log), empty)
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def bucket(s3: S3) -> Iterator[str]:
    """A bucket of this module's, whose processes have the keys in their environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        yield s3.bucket()


def _address(server: subprocess.Popen, log: Path) -> str:
    """The address that the server prints once it listens; it fails the test if the server ends or says nothing."""
    for _ in range(600):
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"the S3 server did not start:\n{log.read_text()}")
