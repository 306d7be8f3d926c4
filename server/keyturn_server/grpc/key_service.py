"""`keyturn.v1.KeyService`: the rings, for operators."""

from keyturn.v1 import keys_pb2, keys_pb2_grpc
from keyturn_server.administration import Administration, Mutation
from keyturn_server.domain.plans import Plan
from keyturn_server.grpc import translate
from keyturn_server.grpc.metadata import CLAIMED_USER
from keyturn_server.grpc.status import Context, answers_with_status
from keyturn_server.ports import Clock


class KeyService(keys_pb2_grpc.KeyServiceServicer):
    """Whoever can open the operators' Unix socket is an operator: the permissions of its folder decide."""

    def __init__(self, administration: Administration, clock: Clock) -> None:
        self._administration = administration
        self._clock = clock

    @answers_with_status
    async def ListIssuers(self, request: keys_pb2.ListIssuersRequest, context: Context) -> keys_pb2.ListIssuersResponse:
        now = self._clock.now()
        rings = await self._administration.rings()
        return keys_pb2.ListIssuersResponse(issuers=[translate.issuer(ring, now) for ring in rings])

    @answers_with_status
    async def ListKeys(self, request: keys_pb2.ListKeysRequest, context: Context) -> keys_pb2.ListKeysResponse:
        ring = await self._administration.ring(request.issuer)
        return keys_pb2.ListKeysResponse(ring=translate.key_ring(ring, self._clock.now()))

    @answers_with_status
    async def RotateKey(self, request: keys_pb2.RotateKeyRequest, context: Context) -> keys_pb2.RotateKeyResponse:
        plan = await self._administration.rotate(_mutation(request, context, force=request.force))
        return keys_pb2.RotateKeyResponse(plan=translate.plan(plan), ring=self._ring(plan))

    @answers_with_status
    async def RevokeKey(self, request: keys_pb2.RevokeKeyRequest, context: Context) -> keys_pb2.RevokeKeyResponse:
        mutation = _mutation(request, context, force=request.force)
        plan = await self._administration.revoke(mutation, request.key_id)
        return keys_pb2.RevokeKeyResponse(plan=translate.plan(plan), ring=self._ring(plan))

    @answers_with_status
    async def ImportKey(self, request: keys_pb2.ImportKeyRequest, context: Context) -> keys_pb2.ImportKeyResponse:
        mutation = Mutation(
            issuer=request.issuer,
            actor=_claimed_user(context),
            expected_ring_version=0,
            validate_only=request.validate_only,
            reason=request.reason,
        )
        policy = translate.policy(request.policy)
        plan = await self._administration.import_key(mutation, request.iss, policy, request.private_key)
        return keys_pb2.ImportKeyResponse(plan=translate.plan(plan), ring=self._ring(plan))

    @answers_with_status
    async def ApplyIssuer(self, request: keys_pb2.ApplyIssuerRequest, context: Context) -> keys_pb2.ApplyIssuerResponse:
        policy = translate.policy(request.policy)
        plan = await self._administration.apply(_mutation(request, context), request.iss, policy)
        return keys_pb2.ApplyIssuerResponse(plan=translate.plan(plan), ring=self._ring(plan))

    @answers_with_status
    async def RetireIssuer(
        self, request: keys_pb2.RetireIssuerRequest, context: Context
    ) -> keys_pb2.RetireIssuerResponse:
        plan = await self._administration.retire(_mutation(request, context))
        return keys_pb2.RetireIssuerResponse(plan=translate.plan(plan), ring=self._ring(plan))

    def _ring(self, plan: Plan) -> keys_pb2.KeyRing:
        """The ring of a plan, shown at an instant that is never before its change."""
        return translate.key_ring(plan.ring, max(plan.ring.change.made_at, self._clock.now()))


PlannedRequest = (
    keys_pb2.RotateKeyRequest | keys_pb2.RevokeKeyRequest | keys_pb2.ApplyIssuerRequest | keys_pb2.RetireIssuerRequest
)


def _mutation(request: PlannedRequest, context: Context, *, force: bool = False) -> Mutation:
    return Mutation(
        issuer=request.issuer,
        actor=_claimed_user(context),
        expected_ring_version=request.expected_ring_version,
        validate_only=request.validate_only,
        force=force,
        reason=request.reason,
    )


def _claimed_user(context: Context) -> str:
    metadata = context.invocation_metadata() or ()
    users = [value for name, value in metadata if name == CLAIMED_USER and isinstance(value, str)]
    return f"claimed:{users[0][:64]}" if users else "claimed:unknown"
