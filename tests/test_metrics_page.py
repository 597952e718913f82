"""Metrics are for those who are asked in: this machine, unless an address is named."""

import json
import socket
from collections.abc import Mapping
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter

from tidemill.deploy.local.kafka_settings import free_port
from tidemill.errors import ConfigError
from tidemill.metrics_page import MetricsPage

OTHER = "127.0.0.2"  # this machine by another address, as another network would see it


def registry() -> CollectorRegistry:
    """Return a registry with one counter."""
    made = CollectorRegistry()
    Counter("rows", "Rows", registry=made).inc(7)
    return made


def body(host: str, port: int, path: str) -> str:
    """Return what the page at *path* says."""
    with urlopen(f"http://{host}:{port}{path}") as answer:
        return str(answer.read(), "utf-8")


def test_metrics_are_shown_to_this_machine_alone() -> None:
    """Consumer lag and the names of loops are nobody's business on a shared network."""
    page = MetricsPage(port=free_port())
    page.serve(registry())
    assert "rows_total 7.0" in body("127.0.0.1", page.port, "/metrics")
    with pytest.raises(URLError, match="refused"):
        body(OTHER, page.port, "/metrics")


def test_a_named_address_is_open_to_its_network() -> None:
    """Prometheus runs somewhere else."""
    page = MetricsPage(port=free_port(), host="0.0.0.0")  # that is what is tested
    page.serve(registry())
    assert "rows_total 7.0" in body(OTHER, page.port, "/metrics")


def test_health_is_a_page_where_there_is_one() -> None:
    """A supervisor asks whether the process lives, and people read why a loop is refused."""
    health: Mapping[str, object] = {"refused": {"shop": "no topic"}}
    page = MetricsPage(port=free_port())
    page.serve(registry(), lambda: health)
    assert json.loads(body("127.0.0.1", page.port, "/healthz")) == health


@pytest.mark.parametrize("port", ["many", "0", "65536", "-1", "9100 ", "9_100"])
def test_what_is_no_port_is_refused(port: str) -> None:
    """An operator reads it at the start, and not when an alarm is missing."""
    with pytest.raises(ConfigError, match="no port for metrics"):
        MetricsPage.asked({"TIDEMILL_METRICS_PORT": port})


def test_options_count_more_than_the_environment() -> None:
    """A second worker of a machine needs a port of its own."""
    env = {"TIDEMILL_METRICS_PORT": "9100", "TIDEMILL_METRICS_HOST": "10.0.0.1"}
    assert MetricsPage.asked({}) is None
    assert MetricsPage.asked(env) == MetricsPage(port=9_100, host="10.0.0.1")
    assert MetricsPage.asked(env, 9_101) == MetricsPage(port=9_101, host="10.0.0.1")
    assert MetricsPage.asked(env, None, "0.0.0.0") == MetricsPage(port=9_100, host="0.0.0.0")
    assert MetricsPage.asked({}, 9_100) == MetricsPage(port=9_100)


def test_a_port_that_is_taken_is_told() -> None:
    """It is another worker's most of the time."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        page = MetricsPage(port=other.getsockname()[1])
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1, port \d+: Address already in use"):
            page.serve(registry())
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        MetricsPage(port=free_port(), host="192.0.2.1").serve(registry())
