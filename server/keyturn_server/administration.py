"""What an operator may see and do: rings, and changes to them ahead of schedule, each with its plan."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from keyturn_server.domain.errors import (
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    RingChangedError,
    UnavailableError,
)
from keyturn_server.domain.issuer_plans import plan_issuer, plan_policy, plan_retirement
from keyturn_server.domain.key_plans import plan_revocation, plan_rotation
from keyturn_server.domain.plans import Plan
from keyturn_server.domain.policy import Policy
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import Change, Ring
from keyturn_server.ledger import Ledger
from keyturn_server.ports import Clock, PrivateKeys, WrappedKey
from keyturn_server.rings import Rings, check_not_older, gone

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """What every change of a ring says."""

    issuer: str
    actor: str
    expected_ring_version: int
    """0: not told, or an issuer that does not exist yet."""
    validate_only: bool
    force: bool = False
    reason: str = ""


class Administration:
    """Reads the store itself, not the replica's snapshot: an operator sees and changes what is there now."""

    def __init__(self, ledger: Ledger, rings: Rings, private_keys: PrivateKeys, clock: Clock) -> None:
        self._ledger = ledger
        self._rings = rings
        self._private_keys = private_keys
        self._clock = clock

    async def rings(self) -> Sequence[Ring]:
        """Every issuer's ring, in the order of their identifiers."""
        issuers = sorted(await self._ledger.newest_versions())
        return [await self.ring(issuer) for issuer in issuers]

    async def ring(self, issuer: str) -> Ring:
        """One issuer's ring; an empty `issuer` is the only one.

        Raises `NotFoundError`, or `RowRefusedError` for a bad row.
        """
        if not issuer:
            issuer = await self._only_issuer()
        seen = self._rings.version(issuer)
        reading = await self._ledger.read([issuer])
        if issuer in reading.refused:
            raise reading.refused[issuer]
        if issuer not in reading.rings and seen:
            raise gone(issuer, seen)
        if issuer not in reading.rings:
            raise NotFoundError(f"there is no issuer {issuer[:100]!r}", reason="NO_SUCH_ISSUER")
        check_not_older(reading.rings[issuer], seen)
        return reading.rings[issuer]

    async def rotate(self, mutation: Mutation) -> Plan:
        """Lets the standby sign from now on; gives the plan, carried out unless `validate_only`."""
        change = self._change(mutation, "rotated")
        return await self._change_ring(mutation, lambda ring, _fresh: plan_rotation(ring, change, force=mutation.force))

    async def revoke(self, mutation: Mutation, kid: str) -> Plan:
        """Withdraws a key at once; gives the plan, carried out unless `validate_only`."""
        if not kid:
            raise InvalidRequestError([FieldViolation("key_id", "is needed: the kid of the key to revoke")])
        change = self._change(mutation, f"revoked {kid[:100]}")
        return await self._change_ring(
            mutation, lambda ring, fresh: plan_revocation(ring, kid, change, force=mutation.force, fresh=fresh)
        )

    async def retire(self, mutation: Mutation) -> Plan:
        """Lets an issuer sign no more, for good; gives the plan, carried out unless `validate_only`."""
        change = self._change(mutation, "retired the issuer")
        return await self._change_ring(mutation, lambda ring, _fresh: plan_retirement(ring, change))

    async def apply(self, mutation: Mutation, iss: str, policy: Policy) -> Plan:
        """Makes an issuer, or puts another policy in force; gives the plan, carried out unless `validate_only`."""
        ring = await self._existing(mutation.issuer)
        if ring is None:
            change = self._change(mutation, "made the issuer")
            return await self._make_issuer(
                mutation, lambda keys: plan_issuer(mutation.issuer, iss, policy, change, keys), policy
            )
        change = self._change(mutation, "changed the policy")
        self._check_version(mutation, ring)
        plan = plan_policy(ring, iss, policy, change)
        return await self._carry_out(mutation, plan)

    async def import_key(self, mutation: Mutation, iss: str, policy: Policy, private_key: bytes) -> Plan:
        """Makes an issuer whose first signer is this key (PKCS #8, DER); gives the plan, carried out unless
        `validate_only`.
        """
        if await self._existing(mutation.issuer) is not None:
            raise RefusedError(
                f"there is an issuer {mutation.issuer} already: a key can only be imported as the first of a new one",
                reason="ISSUER_EXISTS",
            )
        public_key, wrapped = await asyncio.to_thread(self._private_keys.wrap, mutation.issuer, private_key)
        kid = public_key.thumbprint()
        if known := next((ring.issuer for ring in await self.rings() if ring.find(kid)), None):
            raise RefusedError(f"key {kid} is known already: issuer {known} has it", reason="KEY_KNOWN")
        change = self._change(mutation, f"made the issuer with the imported key {kid}")
        return await self._make_issuer(
            mutation,
            lambda keys: plan_issuer(mutation.issuer, iss, policy, change, [public_key, *keys]),
            policy,
            [wrapped],
        )

    async def _change_ring(self, mutation: Mutation, planner: Callable[[Ring, PublicKey | None], Plan]) -> Plan:
        """Plans on the ring as it is; unless it is only a plan, makes exactly that."""
        if mutation.expected_ring_version < 1 and not mutation.validate_only:
            raise InvalidRequestError(
                [FieldViolation("expected_ring_version", "is needed: the version that the change was planned on")]
            )
        ring = await self.ring(mutation.issuer)
        if mutation.expected_ring_version:
            self._check_version(mutation, ring)
        plan = planner(ring, None)
        if mutation.validate_only or not plan.new_keys:
            return await self._carry_out(mutation, plan)
        public_key, wrapped = await self._generate(ring.issuer, ring.policy)
        return await self._carry_out(mutation, planner(ring, public_key), [wrapped])

    async def _make_issuer(
        self,
        mutation: Mutation,
        planner: Callable[[Sequence[PublicKey]], Plan],
        policy: Policy,
        wrapped: Sequence[WrappedKey] = (),
    ) -> Plan:
        """Plans a new issuer; unless it is only a plan, makes the keys that it still needs, and it."""
        if mutation.expected_ring_version:
            raise RingChangedError(mutation.issuer, mutation.expected_ring_version)
        plan = planner([])
        if mutation.validate_only:
            return plan
        made = [await self._generate(mutation.issuer, policy) for _ in range(plan.new_keys)]
        plan = planner([public_key for public_key, _ in made])
        return await self._carry_out(mutation, plan, [*wrapped, *(key for _, key in made)])

    async def _carry_out(self, mutation: Mutation, plan: Plan, add: Sequence[WrappedKey] = ()) -> Plan:
        if mutation.validate_only or not plan.changes:
            return plan
        before = () if plan.before is None else plan.before.keys
        destroyed = {key.kid for key in plan.ring.keys if key.destroyed_at is not None}
        remove = destroyed - {key.kid for key in before if key.destroyed_at is not None}
        await self._ledger.append(plan.ring, add=add, remove=remove)
        await self._take_effect(plan.ring.issuer)
        return plan

    async def _take_effect(self, issuer: str) -> None:
        """Lets this replica go by the change before the operator hears of it. The change is made either way."""
        try:
            await self._rings.refresh()
        except UnavailableError as error:
            log.warning("changed, not yet in force on this replica", issuer=issuer, why=error.message)

    async def _existing(self, issuer: str) -> Ring | None:
        """An issuer's ring, or None where it has none yet."""
        if not issuer:
            raise InvalidRequestError([FieldViolation("issuer", "is needed: the identifier of the issuer")])
        try:
            return await self.ring(issuer)
        except NotFoundError:
            return None

    async def _only_issuer(self) -> str:
        issuers = sorted(await self._ledger.newest_versions())
        if len(issuers) != 1:
            raise InvalidRequestError([FieldViolation("issuer", f"is needed: there are {len(issuers)} issuers")])
        return issuers[0]

    async def _generate(self, issuer: str, policy: Policy) -> tuple[PublicKey, WrappedKey]:
        return await asyncio.to_thread(self._private_keys.generate, issuer, policy.key_size)

    @staticmethod
    def _check_version(mutation: Mutation, ring: Ring) -> None:
        told = mutation.expected_ring_version
        if told != ring.version and not (mutation.validate_only and told == 0):
            raise RingChangedError(ring.issuer, told)

    def _change(self, mutation: Mutation, action: str) -> Change:
        forced = " by force" if mutation.force else ""
        return Change(made_at=self._clock.now(), actor=mutation.actor, action=action + forced, reason=mutation.reason)
