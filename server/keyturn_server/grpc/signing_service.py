"""`keyturn.v1.SigningService`: tokens for callers that a client certificate identifies."""

from keyturn.v1 import signing_pb2, signing_pb2_grpc
from keyturn_server.crypto.peers import peer_names
from keyturn_server.domain.callers import Caller, Callers
from keyturn_server.grpc import translate
from keyturn_server.grpc.status import Context, answers_with_status
from keyturn_server.signing import Signing


class SigningService(signing_pb2_grpc.SigningServiceServicer):
    def __init__(self, signing: Signing, callers: Callers) -> None:
        self._signing = signing
        self._callers = callers

    @answers_with_status
    async def SignToken(self, request: signing_pb2.SignTokenRequest, context: Context) -> signing_pb2.SignTokenResponse:
        caller = self._identify(context)
        return translate.sign_token_response(self._signing.sign(caller, translate.token_request(request)))

    def _identify(self, context: Context) -> Caller:
        certificate = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        return self._callers.identify(() if certificate is None else peer_names(certificate))
