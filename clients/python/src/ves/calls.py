"""What is done to every call: its id, its metadata, its retries. Never here: what a call means."""

from __future__ import annotations

import random
import time
import uuid
from typing import Any, Iterator

import grpc

from ves.errors import VesError

# Calls without a request id that may be repeated all the same.
_HARMLESS = ("Get", "List", "BatchGet", "Wait", "Cancel")


class Backoff:
    """How long to wait before the next try: 0.1 s, then twice as long each time, at most 5 s."""

    def __init__(self) -> None:
        self._next = 0.1

    def pause(self, error: VesError | None) -> float:
        """Before the next try; not less than the server asks for."""
        pause = self._next * random.uniform(0.8, 1.2)
        self._next = min(self._next * 2, 5.0)
        return max(pause, (error and error.retry_after) or 0.0)


class _Details(grpc.ClientCallDetails):
    """Those of a call with some of them changed."""

    def __init__(self, old: Any, metadata: Any, timeout: float | None) -> None:
        self.method = old.method
        self.credentials = old.credentials
        self.wait_for_ready = old.wait_for_ready
        self.compression = old.compression
        self.metadata = metadata
        self.timeout = timeout


def with_request_id(request: Any) -> Any:
    """The request with an id, where it takes one and has none. A copy: who makes another call with the same message
    means another change."""
    field = request.DESCRIPTOR.fields_by_name.get("request_id")
    if field is None or request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid.uuid4())
    return copy


class Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Gives each change an id, repeats what the server was not there for, and raises VesError."""

    def __init__(self, retry_for: float, metadata: tuple[tuple[str, str], ...]) -> None:
        self._retry_for = retry_for
        self._metadata = metadata

    def _details(self, old: Any, timeout: float | None) -> _Details:
        return _Details(old, (*(old.metadata or ()), *self._metadata), timeout)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        request = with_request_id(request)
        method = details.method.rsplit("/", 1)[-1]
        repeatable = hasattr(request, "request_id") or method.startswith(_HARMLESS)
        began, backoff = time.monotonic(), Backoff()
        last = self._retry_for if details.timeout is None else min(details.timeout, self._retry_for)
        while True:
            spent = time.monotonic() - began
            left = None if details.timeout is None else max(details.timeout - spent, 0.001)
            call = continuation(self._details(details, left), request)
            if call.code() is grpc.StatusCode.OK:
                return call
            error = VesError.of(call)
            pause = backoff.pause(error)
            spent = time.monotonic() - began
            if error.code() is not grpc.StatusCode.UNAVAILABLE or not repeatable or spent + pause > last:
                raise error
            time.sleep(pause)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._details(details, details.timeout), request)

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._details(details, details.timeout), requests)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._details(details, details.timeout), requests)


def pages(method: Any, request: Any) -> Iterator[Any]:
    """The pages of a list, to the last: `for page in pages(client.containers.ListContainers, request)`."""
    following = type(request)()
    following.CopyFrom(request)
    while True:
        page = method(following)
        yield page
        following.page_token = page.next_page_token
        if not following.page_token:
            return
