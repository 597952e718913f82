"""tidemill: the open end-to-end loop for product decisions on Kafka."""

__version__ = "0.1.0"  # the only place: pyproject.toml reads it

from tidemill.errors import TidemillError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.client.client import Client

__all__ = ["Client", "Loop", "TidemillError", "__version__"]
