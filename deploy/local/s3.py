"""An S3 server for tests: S3Proxy over a folder, on the Java runtime from PyPI.

It supports the conditional PUT that the Delta log needs. Its objects are files below *data*. Its
jar is downloaded once, like those of the embedded Kafka. It is not for production.
"""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tidemill.deploy.local.jars import Jars, fetch_jars
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.errors import LakeError
from tidemill.features.lake.lake import LakeConfig
from tidemill.private_folder import make_private

SERVER = ("org.gaul:s3proxy:4.1.0",)
BUCKET = "tidemill"
_OPTIONS = ("-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_LOGBACK = '<configuration><root level="WARN"/></configuration>'
_KEY, _SECRET = "tidemill", "tidemill-secret"


@contextlib.contextmanager
def embedded_s3(cache: Path, data: Path, *, timeout_s: float = 60.0) -> Iterator[LakeConfig]:
    """Run a server while the block runs; yield the lake config of its one bucket.

    Raises:
        BrokerError: the server cannot be downloaded.
        ConfigError: the extra `kafka`, with the Java runtime, is not installed.
        LakeError: it does not start.
    """
    jars = fetch_jars(cache, SERVER, name="s3proxy")
    make_private(data / "objects" / BUCKET)
    port = free_port()
    with (data / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            _command(jars, data, port), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _wait(process, port, timeout_s, data / "s3.log")
        yield _config(port)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()


def _command(jars: Jars, data: Path, port: int) -> list[str]:
    settings = {
        "s3proxy.endpoint": f"http://127.0.0.1:{port}",
        "s3proxy.authorization": "aws-v2-or-v4",
        "s3proxy.identity": _KEY,
        "s3proxy.credential": _SECRET,
        "jclouds.provider": "filesystem-nio2",
        "jclouds.filesystem.basedir": str(data / "objects"),
    }
    properties, logback = data / "s3proxy.properties", data / "logback.xml"
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    logback.write_text(_LOGBACK)
    options = (*_OPTIONS, f"-Dlogback.configurationFile={logback}")
    arguments = ("--properties", str(properties))
    return jars.command("org.gaul.s3proxy.Main", *arguments, options=options)


def _config(port: int) -> LakeConfig:
    return LakeConfig.from_env(
        {
            "TIDEMILL_LAKE": f"s3://{BUCKET}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
        }
    )


def _wait(process: "subprocess.Popen[bytes]", port: int, timeout_s: float, log: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise LakeError("the embedded S3 server did not start", hint=f"read {log}")
