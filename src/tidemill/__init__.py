"""tidemill: the open end-to-end loop for product decisions on Kafka."""

__version__ = "0.1.0"
