"""The SPIFFE Workload API on grpc.aio.

Rules kept here (SPIFFE Workload Endpoint §5, SPIFFE Workload API):
- Without the security header ``workload.spiffe.io: true`` nothing is answered: InvalidArgument. It keeps a caller from
  being tricked into making the request (server-side request forgery).
- Who has no identity is told PermissionDenied.
- A stream is sent a message when one differs from the last, and at once.
- The service's name has no package (protos/meshca/v1/workload.proto).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from meshca.delivery.ports import Leaf
from meshca.delivery.workload_call import Workload, X509Material
from meshca.delivery.workload_state import X509Anchors, ders
from meshca.delivery.workloads import Workloads
from meshca.errors import InvalidInputError, MeshcaError
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.jwtsvid import audience_of
from meshca.v1 import workload_pb2 as pb
from meshca.xds.service import to_status

_log = structlog.get_logger(__name__)

SERVICE = "SpiffeWorkloadAPI"
HEADER, HEADER_VALUE = "workload.spiffe.io", "true"

_Context = grpc.aio.ServicerContext[Any, Any]
_Unary = Callable[[Any, Workload], Awaitable[Any]]
_Stream = Callable[[Workload, _Context], Awaitable[None]]


class HeaderMissingError(InvalidInputError):
    """The call may not have been meant."""


def handlers(workloads: Workloads) -> grpc.GenericRpcHandler:
    """Return the service, to be added to a grpc.aio server."""
    streams = {
        "FetchX509SVID": (_x509_svids, pb.X509SVIDRequest),
        "FetchX509Bundles": (_x509_bundles, pb.X509BundlesRequest),
        "FetchJWTBundles": (_jwt_bundles, pb.JWTBundlesRequest),
    }
    unary = {
        "FetchJWTSVID": (_jwt_svids, pb.JWTSVIDRequest),
        "ValidateJWTSVID": (_validated, pb.ValidateJWTSVIDRequest),
    }
    methods = {
        name: grpc.unary_stream_rpc_method_handler(
            _streaming(name, workloads, serve),
            request_deserializer=request.FromString,
            response_serializer=_serialised,
        )
        for name, (serve, request) in streams.items()
    }
    methods |= {
        name: grpc.unary_unary_rpc_method_handler(
            _unary(name, workloads, answer),
            request_deserializer=request.FromString,
            response_serializer=_serialised,
        )
        for name, (answer, request) in unary.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _serialised(message: Any) -> bytes:
    return bytes(message.SerializeToString())


# ---- the methods


async def _x509_svids(workload: Workload, context: _Context) -> None:
    last: tuple[object, ...] = ()
    while True:
        material = await workload.x509()
        if material.marks != last:
            last = material.marks
            await context.write(_svids_message(material))
        workload.delivered(material)
        await workload.next_change()


async def _x509_bundles(workload: Workload, context: _Context) -> None:
    last: Any = None
    while True:
        await workload.require_identities()
        message = _bundles_message(workload.state.trust_domain, workload.anchors)
        if message != last:
            last = message
            await context.write(message)
        await workload.next_change()


async def _jwt_bundles(workload: Workload, context: _Context) -> None:
    last: Mapping[TrustDomain, bytes] | None = None
    while True:
        anchors = await workload.bundles()
        if anchors.bundles != last:
            last = anchors.bundles
            await context.write(pb.JWTBundlesResponse(bundles=_by_id(anchors.bundles)))
        workload.delivered_bundles(anchors)
        await workload.next_change()


async def _jwt_svids(request: Any, workload: Workload) -> Any:
    found = await workload.tokens(request.spiffe_id, audience_of(request.audience))
    return pb.JWTSVIDResponse(
        svids=[pb.JWTSVID(spiffe_id=str(one), svid=text, hint=hint_of(one)) for one, text in found]
    )


async def _validated(request: Any, workload: Workload) -> Any:
    found = await workload.verify(request.svid, request.audience)
    response = pb.ValidateJWTSVIDResponse(spiffe_id=str(found.spiffe_id))
    response.claims.update(found.claims)
    return response


# ---- the messages


def hint_of(spiffe_id: SpiffeId) -> str:
    """Return what tells a caller's identities apart: App Mesh's name of the node, as in ``node.id``."""
    return spiffe_id.path.removeprefix("/")


def _svids_message(material: X509Material) -> Any:
    anchors = material.anchors
    return pb.X509SVIDResponse(
        svids=[_svid_message(leaf, anchors.bundle) for leaf in material.leaves],
        crl=anchors.crls,
        federated_bundles=_by_id(anchors.federated),
    )


def _svid_message(leaf: Leaf, bundle: bytes) -> Any:
    (key,) = ders(leaf.key_pem)
    return pb.X509SVID(
        spiffe_id=str(leaf.spiffe_id),
        x509_svid=b"".join(ders(leaf.chain_pem)),
        x509_svid_key=key,
        bundle=bundle,
        hint=hint_of(leaf.spiffe_id),
    )


def _bundles_message(trust_domain: TrustDomain, anchors: X509Anchors) -> Any:
    bundles = {**anchors.federated, trust_domain: anchors.bundle}
    return pb.X509BundlesResponse(crl=anchors.crls, bundles=_by_id(bundles))


def _by_id(bundles: Mapping[TrustDomain, bytes]) -> dict[str, bytes]:
    return {str(trust_domain.id): bundle for trust_domain, bundle in bundles.items()}


# ---- the calls


def _streaming(name: str, workloads: Workloads, serve: _Stream) -> Callable[[Any, _Context], Awaitable[None]]:
    async def call(_: Any, context: _Context) -> None:
        async with _told(name, context):
            _require_header(context)
            with contextlib.closing(await workloads.open(context.peer())) as workload:
                await serve(workload, context)

    return call


def _unary(name: str, workloads: Workloads, answer: _Unary) -> Callable[[Any, _Context], Awaitable[Any]]:
    async def call(request: Any, context: _Context) -> Any:
        async with _told(name, context):
            _require_header(context)
            with contextlib.closing(await workloads.open(context.peer())) as workload:
                return await answer(request, workload)

    return call


@contextlib.asynccontextmanager
async def _told(name: str, context: _Context) -> AsyncIterator[None]:
    """Turn an error into a status: ours in words, any other as an internal error."""
    try:
        yield
    except Exception as error:  # the one place where an error becomes a status
        await _abort(name, context, error)


async def _abort(name: str, context: _Context, error: Exception) -> NoReturn:
    if isinstance(error, MeshcaError):
        _log.info("workload call ended", call=name, reason=str(error))
    elif not context.cancelled():
        _log.error("workload call failed", call=name, exc_info=error)
    await context.abort(*to_status(error))


def _require_header(context: _Context) -> None:
    values = [value for key, value in context.invocation_metadata() or () if key == HEADER]
    if values != [HEADER_VALUE]:
        raise HeaderMissingError(
            f"a call of the Workload API carries the metadata {HEADER}: {HEADER_VALUE} (Workload Endpoint §5)",
            remedy="use a SPIFFE library, or set it",
        )
