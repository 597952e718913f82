"""The rules in force in a worker: the newest of each loop that a trusted key has signed."""

import logging
from collections.abc import Mapping

from tidemill.errors import ContractError, LoopError
from tidemill.kafka import Record
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.record_signature import is_signed
from tidemill.schemas.rules.rule_record import RuleRecord, parse_rules
from tidemill.serving.decision.decider import Decider
from tidemill.serving.policies.applied_rules import Rules

logger = logging.getLogger(__name__)


class FollowedRules:
    """Keeps the newest rules of each loop, and puts them in force.

    Args:
        trusted: the keys whose rules count.
        before: the rules of a worker that reads its topics anew, because the trusted keys have
            changed. They hold until the topic has been read, so that nothing forbidden is done in
            between.
    """

    def __init__(
        self, trusted: TrustedKeys, before: Mapping[str, RuleRecord] | None = None
    ) -> None:
        self.records: dict[str, RuleRecord] = dict(before or {})
        self.troubles: dict[str, str] = {}
        """Why the newest rules of a loop are not in force."""
        self._trusted = trusted
        self._unconfirmed = set(self.records)

    def take(self, record: Record) -> str | None:
        """Keep the rules of *record* if they are newer; return the loop whose rules changed.

        Raises:
            ContractError: no trusted key has signed them.
            LoopError: the record has no rules.
        """
        found = parse_rules(record.key, record.value or b"")
        if not is_signed(record, self._trusted):
            raise ContractError(
                f"rules of {found.loop} without the signature of a trusted key",
                hint="set them with tidemill rules set, with a key that workers trust",
            )
        known = self.records.get(found.loop)
        is_confirmed = found.loop not in self._unconfirmed
        if known is not None and known.version >= found.version and is_confirmed:
            return None  # read once more, after a lost connection
        self._unconfirmed.discard(found.loop)
        self.records[found.loop] = found
        return found.loop

    def drop_unconfirmed(self) -> set[str]:
        """Drop the rules that the topic does not have any more; return their loops."""
        dropped, self._unconfirmed = self._unconfirmed, set()
        for loop in dropped:
            del self.records[loop]
        return dropped

    def apply(self, decider: Decider) -> None:
        """Put the rules of the loop of *decider* in force.

        Rules that do not fit leave those that are in force as they are.
        """
        name = decider.loop.loop
        record = self.records.get(name)
        self.troubles.pop(name, None)
        if record is None or not record.rules:
            decider.rules = None
            return
        try:
            decider.rules = Rules(record, decider.loop)
        except LoopError as error:
            self.troubles[name] = (
                f"version {record.version} of the rules does not fit version "
                f"{decider.loop.version} of {name}: {error.what}"
            )
            logger.error("%s", self.troubles[name])
            return
        logger.info("%s follows version %d of its rules", name, record.version)
