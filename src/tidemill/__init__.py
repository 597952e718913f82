"""tidemill: the open end-to-end loop for product decisions on Kafka.

The public names are here; each package says in its `__init__` what it holds. Read `errors`, then
`schemas`. It imports what a service needs, and no lake and no trainer.

Proved elsewhere: `harmless` by `tests/cli/test_terminal.py`.
Proved elsewhere: `watched_file` by `tests/test_access.py`.
"""

__version__ = "0.1.0"  # the only place: pyproject.toml reads it

from tidemill.errors import TidemillError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.client.async_client import AsyncClient
from tidemill.serving.client.client import Client

__all__ = ["AsyncClient", "Client", "Loop", "TidemillError", "__version__"]
