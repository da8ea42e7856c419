"""A real S3 server on the loopback interface, spoken to over HTTP."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import boto3
import fsspec
from moto.server import ThreadedMotoServer

import lrt_dist.files  # noqa: F401 (obstore becomes fsspec's client of S3)


@contextmanager
def s3_bucket(name: str) -> Iterator[str]:
    """The URL of a new bucket, with its credentials in the environment."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    try:
        with mock.patch.dict(os.environ, variables):
            boto3.client("s3").create_bucket(Bucket=name)
            fsspec.get_filesystem_class("s3").clear_instance_cache()  # of an earlier server
            yield f"s3://{name}"
    finally:
        server.stop()


def s3_keys(bucket: str, prefix: str = "") -> list[str]:
    """Of all objects of a bucket, or of those that begin like this."""
    lister = boto3.client("s3").get_paginator("list_objects_v2")
    pages = lister.paginate(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def s3_objects(bucket: str, prefix: str = "") -> dict[str, bytes]:
    """The same with their contents."""
    client = boto3.client("s3")
    return {
        key: client.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in s3_keys(bucket, prefix)
    }
