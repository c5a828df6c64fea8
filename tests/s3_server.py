"""A server that speaks S3 on loopback, and the environment that leads to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "pose"


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's server; yield its endpoint."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def set_aws_environment(monkeypatch: pytest.MonkeyPatch, endpoint: str, variable: str) -> None:
    """Let AWS's clients find the endpoint, and nothing of this machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(variable, endpoint)


def make_bucket(name: str = BUCKET) -> None:
    # The module's own session would keep the first credentials.
    client = boto3.Session().client("s3")
    with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=name)
    client.close()
