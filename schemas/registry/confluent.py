"""The schema store in a registry with Confluent's REST protocol, over plain HTTP.

A registry numbers schemas, and payloads start with a zero byte and that number. Subjects follow
Confluent's TopicRecordNameStrategy, ``<topic>-<full name of the record>``, so that its serialisers
in any language use the same ones. `avro/evolution.py` decides what may change, as for every store,
and so does the registry.

Source: Confluent, "Schema Registry API reference" and "Formats, Serializers, and Deserializers".
"""

import base64
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from typing import cast
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from tidemill.errors import BrokerError, ConfigError, ContractError
from tidemill.schemas.avro.evolution import check_successor
from tidemill.schemas.avro.limits import check_schema
from tidemill.schemas.avro.types import full_name
from tidemill.schemas.avro.wire import Schema, canonical_json, confluent_id, confluent_prefix
from tidemill.schemas.registry.port import SchemaStore

MAX_ANSWER_BYTES = 4 * 2**20
UNKNOWN_FOR_S = 5.0
"""How long a number unknown to the registry is not requested again, so that junk makes no load."""

_CONTENT = "application/vnd.schemaregistry.v1+json"


class ConfluentSchemaStore:
    """A `SchemaStore` in a registry at a URL; it caches what it has looked up."""

    def __init__(
        self, url: str, *, older: SchemaStore | None = None, timeout_s: float = 10.0
    ) -> None:
        """Use the registry at *url*, which may contain a user and a password.

        Single-object prefixes, of payloads written before the registry was set up, are looked up in
        *older*.

        Raises:
            ConfigError: *url* is not an HTTP address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "SCHEMA_REGISTRY_URL is not an address", hint="write it as http://registry:8081"
            )
        self._headers = {"Content-Type": _CONTENT, "Accept": f"{_CONTENT}, application/json"}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self._older = older
        self._timeout_s = timeout_s
        self._known: dict[bytes, Schema] = {}
        self._unknown: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def register(self, subject: str, schema: Schema) -> bytes:
        """Register *schema*; return the prefix of its payloads once the registry has numbered it.

        Raises:
            ContractError: *schema* is beyond `limits`, or older events of *subject* could not be
                read with it.
            BrokerError: the registry does not answer.
        """
        check_schema(schema)
        topic = subject.rpartition("/")[0] or subject
        name = quote(f"{topic}-{full_name(schema)}", safe="")
        check_successor(subject, self._versions(name), schema)
        body = {"schema": canonical_json(schema), "schemaType": "AVRO"}
        answer = self._ask("POST", f"/subjects/{name}/versions", body)
        if answer is None or not isinstance(answer.get("id"), int):
            raise self._unexpected(f"an answer without id to a new schema of {subject}")
        prefix = confluent_prefix(cast(int, answer["id"]))
        with self._lock:
            self._known[prefix] = schema
            self._unknown.pop(prefix, None)
        return prefix

    def register_all(self, schemas: Sequence[tuple[str, Schema]]) -> list[bytes]:
        """Register each subject's schema, one after the other; see `SchemaStore`."""
        return [self.register(subject, schema) for subject, schema in schemas]

    def _versions(self, name: str) -> list[Schema]:
        numbers = self._request("GET", f"/subjects/{name}/versions") or []
        if not isinstance(numbers, list):
            raise self._unexpected(f"{numbers!r} for the versions of {name}")
        answers = [self._ask("GET", f"/subjects/{name}/versions/{number}") for number in numbers]
        return [self._schema(answer) for answer in answers if answer is not None]

    def lookup(self, prefix: bytes) -> Schema | None:
        """Return the schema of payloads that start with *prefix*, or None; see `SchemaStore`."""
        return self.lookup_all([prefix]).get(prefix)

    def lookup_all(self, prefixes: Collection[bytes]) -> dict[bytes, Schema]:
        """Return the schemas of the registered ones among *prefixes*.

        Raises:
            BrokerError: a prefix is not in the cache and the registry does not answer.
        """
        found: dict[bytes, Schema] = {}
        others = [prefix for prefix in prefixes if confluent_id(prefix) is None]
        if others and self._older is not None:
            found |= self._older.lookup_all(others)
        for prefix in prefixes:
            number = confluent_id(prefix)
            schema = None if number is None else self._by_number(prefix, number)
            if schema is not None:
                found[prefix] = schema
        return found

    def _by_number(self, prefix: bytes, number: int) -> Schema | None:
        if prefix in self._known:
            return self._known[prefix]
        if time.monotonic() < self._unknown.get(prefix, 0.0):
            return None
        answer = self._ask("GET", f"/schemas/ids/{number}")
        with self._lock:
            if answer is None:
                if len(self._unknown) > 10_000:
                    self._unknown.clear()
                self._unknown[prefix] = time.monotonic() + UNKNOWN_FOR_S
                return None
            return self._known.setdefault(prefix, self._schema(answer))

    def _schema(self, answer: Mapping[str, object]) -> Schema:
        try:
            schema = json.loads(str(answer.get("schema")))
        except ValueError:
            schema = None
        # payloads with a schema that is not Avro are refused as unreadable
        avro = answer.get("schemaType", "AVRO") == "AVRO" and isinstance(schema, dict)
        return cast(Schema, schema) if avro else {"type": "not-avro"}

    def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> Mapping[str, object] | None:
        answer = self._request(method, path, body)
        if answer is not None and not isinstance(answer, dict):
            raise self._unexpected(f"{type(answer).__name__} for {path}")
        return answer

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> object | None:
        """Return the JSON answer; None if the registry answers 404."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + path, data=data, headers=self._headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                return cast(object, json.loads(response.read(MAX_ANSWER_BYTES)))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                error.close()
                return None
            raise self._refusal(error, path) from error
        except (OSError, http.client.HTTPException) as error:
            raise BrokerError(
                f"the schema registry at {self._url} does not answer: {error}",
                hint="check that it is up and that SCHEMA_REGISTRY_URL is right; then try again",
            ) from error
        except ValueError as error:
            raise self._unexpected(f"no JSON for {path}") from error

    def _refusal(self, error: urllib.error.HTTPError, path: str) -> ContractError | BrokerError:
        with error:
            text = error.read(10_000).decode(errors="replace")
        if error.code in (409, 422):
            return ContractError(
                f"the schema registry refuses {path}: {text}",
                hint="change the loop so that older events stay readable: tidemill loop diff",
            )
        return self._unexpected(f"{error.code} for {path}: {text}")

    def _unexpected(self, what: str) -> BrokerError:
        return BrokerError(
            f"the schema registry at {self._url} answers {what}",
            hint="check that SCHEMA_REGISTRY_URL is the address of a registry, and read its log",
        )
