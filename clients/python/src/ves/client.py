"""A connection to a node, its services, and what is typed with them. Never here: the messages, which are generated."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Sequence

import grpc
from google.protobuf import duration_pb2, field_mask_pb2

from ves import session
from ves.api import v1
from ves.api.v1 import (
    access_pb2_grpc,
    container_pb2_grpc,
    event_pb2_grpc,
    node_pb2_grpc,
    operation_pb2_grpc,
    session_pb2_grpc,
    snapshot_pb2_grpc,
    template_pb2_grpc,
    usage_pb2_grpc,
)
from ves.calls import Interceptor
from ves.errors import VesError
from ves.watch import Watch

DEFAULT_TARGET = "unix:/run/ves/api/coordinator.sock"
"""The socket of this machine's own node."""

_ENDED = (v1.Operation.STATE_SUCCEEDED, v1.Operation.STATE_FAILED, v1.Operation.STATE_CANCELLED)


@dataclass(frozen=True)
class Tls:
    """Files of PEM, as `virtctl cert issue` writes them. Without a certificate of its own a client has a token."""

    ca: str
    cert: str | None = None
    key: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        def read(path: str | None) -> bytes | None:
            if path is None:
                return None
            with open(path, "rb") as file:
                return file.read()

        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate and its key come together")
        return grpc.ssl_channel_credentials(read(self.ca), read(self.key), read(self.cert))


def connect(
    target: str = DEFAULT_TARGET,
    *,
    tls: Tls | None = None,
    token: str | None = None,
    on_behalf_of: str | None = None,
    retry_for: float = 60.0,
    options: Sequence[tuple[str, Any]] = (),
) -> Client:
    """Connects to `unix:/path` or, with `tls`, to `https://host:port`. Nothing is sent before the first call.

    `token` is a bearer token, `on_behalf_of` the panel's own user in whose name it asks. A call that finds no server is
    repeated for `retry_for` seconds, and not beyond the timeout it was given.
    """
    metadata = (("ves-on-behalf-of", on_behalf_of),) if on_behalf_of else ()
    # A dead link is noticed within half a minute.
    keepalive = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
    # Retries are here, where the request's id is.
    options = [("grpc.enable_retries", 0), *keepalive, *options]
    if target.startswith("unix:"):
        if tls or token:
            raise ValueError("on a unix socket the kernel says who is calling; tls and token are for https://")
        channel = grpc.insecure_channel(target, options)
    elif target.startswith("https://"):
        if tls is None:
            raise ValueError(f"{target} needs tls: the CA, and a certificate or a token")
        credentials = tls.credentials()
        if token:
            bearer = grpc.access_token_call_credentials(token)
            credentials = grpc.composite_channel_credentials(credentials, bearer)
        channel = grpc.secure_channel(target.removeprefix("https://").rstrip("/"), credentials, options)
    else:
        raise ValueError(f"{target!r} is neither unix:/path nor https://host:port")
    return Client(channel, Interceptor(retry_for, metadata))


class Client:
    """A connection. `containers` and the others are the generated stubs; what they raise is VesError."""

    def __init__(self, channel: grpc.Channel, interceptor: Interceptor) -> None:
        self._closes = channel
        self.channel = grpc.intercept_channel(channel, interceptor)
        self.access = access_pb2_grpc.AccessServiceStub(self.channel)
        self.containers = container_pb2_grpc.ContainerServiceStub(self.channel)
        self.events = event_pb2_grpc.EventServiceStub(self.channel)
        self.nodes = node_pb2_grpc.NodeServiceStub(self.channel)
        self.operations = operation_pb2_grpc.OperationServiceStub(self.channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(self.channel)
        self.snapshots = snapshot_pb2_grpc.SnapshotServiceStub(self.channel)
        self.templates = template_pb2_grpc.TemplateServiceStub(self.channel)
        self.usage = usage_pb2_grpc.UsageServiceStub(self.channel)

    def close(self) -> None:
        """Ends all calls and the connection."""
        self._closes.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(
        self,
        operation: v1.Operation | str,
        timeout: float | None = None,
        progress: Callable[[v1.Operation], Any] | None = None,
    ) -> v1.Operation:
        """The operation as it is after its end, also over a restart of the server. Raises VesError where it failed, was
        cancelled, or has not ended in time."""
        name = operation if isinstance(operation, str) else operation.name
        if not isinstance(operation, str) and operation.state in _ENDED:
            return _succeeded(operation)
        with Watch(self.operations.WatchOperations, v1.WatchOperationsRequest(name=name), timeout) as watch:
            for message in watch:
                event = message.WhichOneof("event")
                if event == "gone":
                    raise VesError(grpc.StatusCode.NOT_FOUND, f"{name} is forgotten", "OPERATION_UNKNOWN")
                if event != "changed":
                    continue
                if progress is not None:
                    progress(message.changed)
                if message.changed.state in _ENDED:
                    return _succeeded(message.changed)
        raise VesError(grpc.StatusCode.CANCELLED, f"nobody waits for {name} any more")

    def watch_containers(
        self,
        *,
        filter: str = "",
        read_mask: Sequence[str] = (),
        heartbeat: datetime.timedelta | None = None,
        resume_token: str = "",
    ) -> Watch[v1.WatchContainersResponse]:
        """Tells of containers: see WatchContainersResponse."""
        mask = field_mask_pb2.FieldMask(paths=read_mask) if read_mask else None
        request = v1.WatchContainersRequest(
            resume_token=resume_token, filter=filter, read_mask=mask, heartbeat=_duration(heartbeat)
        )
        return Watch(self.containers.WatchContainers, request)

    def watch_operations(
        self, *, filter: str = "", heartbeat: datetime.timedelta | None = None, resume_token: str = ""
    ) -> Watch[v1.WatchOperationsResponse]:
        """Tells of operations: see WatchOperationsResponse."""
        request = v1.WatchOperationsRequest(
            resume_token=resume_token, filter=filter, heartbeat=_duration(heartbeat)
        )
        return Watch(self.operations.WatchOperations, request)

    def watch_events(
        self, *, filter: str = "", heartbeat: datetime.timedelta | None = None, resume_token: str = ""
    ) -> Watch[v1.WatchEventsResponse]:
        """Tells of events: see WatchEventsResponse."""
        request = v1.WatchEventsRequest(resume_token=resume_token, filter=filter, heartbeat=_duration(heartbeat))
        return Watch(self.events.WatchEvents, request)

    def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        stdin: bytes | Iterable[bytes] = b"",
        env: Sequence[str] = (),
        cwd: str = "",
        user: str = "",
        stdout: Callable[[bytes], Any] | None = None,
        stderr: Callable[[bytes], Any] | None = None,
        timeout: float | None = None,
        max_output: int = 16 << 20,
    ) -> session.Ended:
        """Runs a command in `containers/…` to its end. What it prints is handed to `stdout` and `stderr` as it comes, or
        kept, each at most `max_output` bytes. With a timeout it is ended inside too. It is never repeated: it may have
        run."""
        start = v1.ExecStart(container=container, argv=argv, env=env, cwd=cwd, user=user)
        return session.run(self.sessions.Exec, start, stdin, stdout, stderr, timeout, max_output)


def _duration(delta: datetime.timedelta | None) -> duration_pb2.Duration | None:
    if delta is None:
        return None
    duration = duration_pb2.Duration()
    duration.FromTimedelta(delta)
    return duration


def _succeeded(operation: v1.Operation) -> v1.Operation:
    if operation.state == v1.Operation.STATE_SUCCEEDED:
        return operation
    if operation.HasField("error"):
        raise VesError.of_status(operation.error)
    raise VesError(grpc.StatusCode.ABORTED, f"{operation.name} was cancelled", "CANCELLED")
