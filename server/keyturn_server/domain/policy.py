"""The times that an issuer's keys live by, and the rules that relate them.

| letter | setting            | meaning                                                                        |
| ------ | ------------------ | ------------------------------------------------------------------------------ |
| P      | rotation_period    | how long a key signs                                                           |
| W      | propagation_window | how long a key is published before it signs                                    |
| L      | max_token_lifetime | the longest lifetime of a token                                                |
| V      | verifier_cache     | the longest that a verifier goes on using a document                           |
|        | document_max_age   | the longest that a shared cache in front of the documents holds one            |
| F      | signing_lease      | the longest that a replica signs or publishes from a snapshot it cannot refresh |
| E      | clock_tolerance    | how far a clock may be off, so that two differ by up to 2E                     |
"""

import math
from dataclasses import dataclass, fields
from datetime import timedelta

from keyturn_server.domain.errors import PolicyError

MAX_SCHEDULED_KEYS = 20
"""How many keys a policy may make a document hold: beyond it, consumers begin to cut key sets off."""

KEY_SIZES = (2048, 3072, 4096)

_ZERO = timedelta(0)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy that keeps its own promises: making one that does not raises `PolicyError` with the numbers."""

    rotation_period: timedelta
    propagation_window: timedelta
    max_token_lifetime: timedelta
    verifier_cache: timedelta
    document_max_age: timedelta
    signing_lease: timedelta
    clock_tolerance: timedelta
    key_size: int = 2048

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, timedelta) and value < _ZERO:
                raise PolicyError(field.name, f"{field.name} is negative ({value})")
        if self.max_token_lifetime < _SECOND:
            raise PolicyError(
                "max_token_lifetime", f"max_token_lifetime is {self.max_token_lifetime}, less than 1 second"
            )
        if self.signing_lease == _ZERO:
            raise PolicyError("signing_lease", "signing_lease is 0: no replica could ever sign")
        if self.key_size not in KEY_SIZES:
            raise PolicyError("key_size", f"key_size is {self.key_size}; it may be {', '.join(map(str, KEY_SIZES))}")
        self._check_window()
        self._check_period()

    def _check_window(self) -> None:
        """A key must be in every document that a verifier may still use before it signs."""
        needed = self.verifier_cache + self.document_max_age + self.signing_lease + 2 * self.clock_tolerance
        if self.propagation_window < needed:
            raise PolicyError(
                "propagation_window",
                f"propagation_window is {self.propagation_window} and must be at least {needed}: verifier_cache "
                f"({self.verifier_cache}) + max_age ({self.document_max_age}) + signing_lease ({self.signing_lease}) "
                f"+ 2 x clock tolerance ({self.clock_tolerance})",
            )

    def _check_period(self) -> None:
        """The next key must have time to propagate, and old keys time to leave before documents grow too long."""
        if self.rotation_period <= self.propagation_window:
            raise PolicyError(
                "rotation_period",
                f"rotation_period is {self.rotation_period} and must be longer than propagation_window "
                f"({self.propagation_window})",
            )
        if self.most_published_keys > MAX_SCHEDULED_KEYS:
            raise PolicyError(
                "rotation_period",
                f"rotation_period is {self.rotation_period}, so that {self.most_published_keys} keys would be "
                f"published at once, more than {MAX_SCHEDULED_KEYS}: after they stop signing, keys stay published for "
                f"{self.coverage(self.max_token_lifetime)} (max_token_lifetime + signing_lease + 4 x clock tolerance)",
            )

    def window_with(self, later: "Policy") -> timedelta:
        """The propagation window where replicas go by this policy still, and verifiers by a later one."""
        needed = later.verifier_cache + self.document_max_age + self.signing_lease + 2 * self.clock_tolerance
        return max(self.propagation_window, needed)

    def coverage(self, max_lifetime: timedelta) -> timedelta:
        """How long a key that signed tokens of up to `max_lifetime` stays published after its successor took over.

        The last replica to notice may be F behind and its clock 2E slow; the verifier's clock may be 2E slow as well.
        """
        return max_lifetime + self.signing_lease + 4 * self.clock_tolerance

    @property
    def most_published_keys(self) -> int:
        """How many keys a document holds at most without forced rotations: signer, standby, and those not yet
        withdrawn.
        """
        return math.ceil(self.coverage(self.max_token_lifetime) / self.rotation_period) + 2
