"""The metrics reference, from the registries that the processes answer with."""

from collections.abc import Iterator
from dataclasses import dataclass

from docs.generate.markdown import cell, code, table
from docs.generate.names import registries
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric, by the name it is exported with; a histogram without its three endings."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str


def metrics_tables() -> str:
    """Return a section for each process, with a row for each metric."""
    return "\n\n".join(
        f"## {title}\n\n{table(['metric', 'type', 'labels', 'what it says'], map(_cells, rows))}"
        for title, rows in ((title, metrics_of(made)) for title, made in registries().items())
    )


def metrics_of(registry: CollectorRegistry) -> list[Row]:
    """Return the metrics of *registry*, sorted by name, also those without a value yet."""
    return sorted(_rows(registry), key=lambda row: row.name)


def _rows(registry: CollectorRegistry) -> Iterator[Row]:
    for collector in list(registry._collector_to_names):
        labels = collector._labelnames if isinstance(collector, MetricWrapperBase) else None
        for family in collector.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            known = labels if labels is not None else getattr(family, "_labelnames", ())
            yield Row(name=name, type=family.type, labels=tuple(known), text=family.documentation)


def _cells(row: Row) -> list[str]:
    labels = ", ".join(map(code, row.labels))
    return [code(row.name), row.type, labels, cell(row.text)]
