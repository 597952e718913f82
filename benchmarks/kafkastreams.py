"""Kafka Streams as a peer: `LeftJoin.java` compiled and run on the Java of the embedded Kafka.

The jars are downloaded from Maven Central the first time; the compiler is Eclipse's, which needs no
JDK. The settings are those that Kafka documents for throughput: lz4, large batches, state in
RocksDB with changelogs. It has one core, so it runs one thread.
"""

import json
import os
import subprocess
from pathlib import Path

from benchmarks.workload import GRACE, WITHIN, Filled
from tidemill.deploy.local.jars import KAFKA_VERSION, LOG4J_VERSION, Jars, cache_dir, fetch_jars
from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import decision_schema, feedback_schema

ARTIFACTS = (
    f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}",
    "org.apache.avro:avro:1.12.0",
    "org.eclipse.jdt:ecj:3.40.0",
    f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}!",
)
SOURCE = Path(__file__).with_name("LeftJoin.java")
JAVA_OPTIONS = (
    "-Xmx1g",
    "-XX:+UseSerialGC",  # the cheapest in CPU, and what Java takes by itself on one core
    "-Dorg.apache.avro.fastread=true",
    "-Dlog4j2.level=WARN",
    "--enable-native-access=ALL-UNNAMED",  # RocksDB
)
SETTINGS = {
    "num.stream.threads": "1",
    "auto.offset.reset": "earliest",
    "producer.compression.type": "lz4",
    "producer.batch.size": "262144",
    "producer.linger.ms": "100",
    "max.poll.records": "5000",
    "max.partition.fetch.bytes": "4194304",
    "buffered.records.per.partition": "5000",
    "replication.factor": "1",  # the benchmark's broker is alone; less work for it, not for them
}


def compiled(folder: Path) -> Jars:
    """Return the class path of the join, compiled into *folder*.

    Raises:
        BrokerError: the jars cannot be fetched, or the source does not compile.
    """
    jars = fetch_jars(cache_dir(os.environ), ARTIFACTS, name="streams")
    classpath = os.pathsep.join(map(str, jars.paths))
    options = ("-source", "21", "-target", "21", "-classpath", classpath, "-d", str(folder))
    compiler = "org.eclipse.jdt.internal.compiler.batch.Main"
    done = subprocess.run(
        jars.command(compiler, *options, str(SOURCE)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BrokerError(f"{SOURCE.name} does not compile: {done.stderr}", hint="correct it")
    return Jars(jars.java, (folder, *jars.paths))


def command(
    jars: Jars,
    kafka: KafkaConfig,
    filled: Filled,
    folder: Path,
    *,
    group: str,
    examples: str,
    guarantee: str,
) -> list[str]:
    """Return the command that joins *filled* into the topic *examples*, with its state in *folder*.

    *jars* are those of `compiled`; *guarantee* is `at_least_once` or `exactly_once_v2`.
    """
    bench = filled.loop
    decisions, feedback = folder / "decision.avsc", folder / "feedback.avsc"
    decisions.write_text(json.dumps(decision_schema(bench)))
    feedback.write_text(json.dumps(feedback_schema(bench, "click")))
    settings = {
        **SETTINGS,
        "application.id": group,
        "bootstrap.servers": kafka.bootstrap,
        "state.dir": str(folder / group),
        "processing.guarantee": guarantee,
        "bench.decisions": topics.decisions(bench.loop),
        "bench.feedback": topics.feedback(bench.loop),
        "bench.examples": examples,
        "bench.decision.schema": str(decisions),
        "bench.feedback.schema": str(feedback),
        "bench.within": f"PT{WITHIN.total_seconds():g}S",
        "bench.grace": f"PT{GRACE.total_seconds():g}S",
    }
    properties = folder / f"{group}.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return jars.command("LeftJoin", str(properties), options=JAVA_OPTIONS)
