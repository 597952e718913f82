"""Schema stores: they map the prefix of a payload to the schema of its writer.

Read `port`, then the three that implement it: `memory`, `kafka` (the topic ``tidemill.schemas``)
and `confluent` (a registry by REST); `choose` picks one by the environment. It imports
`tidemill.kafka` and `avro` and no loop. One contract suite, tests/schemas/registry, runs on all.

Proved elsewhere: `port` by `tests/schemas/registry/test_choose.py`.
Proved elsewhere: `memory` by `tests/schemas/registry/test_choose.py`.
Proved elsewhere: `kafka` by `tests/schemas/registry/test_choose.py`.
Proved elsewhere: `confluent` by `tests/schemas/registry/test_choose.py`.
"""
