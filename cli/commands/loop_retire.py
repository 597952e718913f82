"""`tidemill loop retire`."""

import os
from getpass import getuser
from socket import gethostname

from tidemill.cli.options import LoopName, Who, Why
from tidemill.cli.terminal import print_text


def retire(loop: LoopName, why: Why, who: Who = None) -> None:
    """End a loop: publish a version of it that says that it is retired.

    Servers answer no decision of it any more, and still take feedback. Trainers drop it, and
    workers once its windows have closed. Topics and lake stay. To use it again, publish a newer
    version.
    """
    from tidemill.cli.lakes import lake_if_set
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.published import latest_loop, publish_loop, retired_version
    from tidemill.schemas.registry.choose import schema_store

    config = KafkaConfig.from_env(os.environ)
    said = f"{who or f'{getuser()}@{gethostname()}'}: {why}"
    retired = retired_version(latest_loop(config, loop), said)
    lake = lake_if_set()
    prepare = (lambda _loop: None) if lake is None else lake.create
    store = schema_store(config, os.environ)
    publish_loop(config, retired, store, prepare=prepare, accept_create_time=True)
    print_text(f"{loop} is retired by its version {retired.version}: {why}")
    print_text(f"  workers drop it once its windows have closed, {loop}'s topics and rows stay")
    print_text(f"  to use it again, publish version {retired.version + 1}")
