"""Watches that go on over lost connections and restarts of the server. Never here: what is done with the news."""

from __future__ import annotations

import threading
import time
from typing import Any, Generator, Generic, Iterator, TypeVar

import grpc

from ves.calls import Backoff
from ves.errors import VesError

Message = TypeVar("Message")

# How long a stream may be silent, in heartbeats, before another is opened.
_SILENT = 3
_HEARTBEAT = 30.0


class Watch(Generic[Message]):
    """An iterator over the messages of a watch. Where the connection is lost it opens another, which goes on after
    the last message that was handed out. Whoever gets `reset` forgets what was told before: the server could not go on
    from there. It ends when it is closed, also by another thread, or raises VesError."""

    def __init__(self, method: Any, request: Any, timeout: float | None = None) -> None:
        self._method = method
        self._request = type(request)()
        self._request.CopyFrom(request)
        self._end = None if timeout is None else time.monotonic() + timeout
        self._closed = threading.Event()
        self._call: Any = None
        self._waits_since: float | None = None
        self._silence = _SILENT * (request.heartbeat.ToTimedelta().total_seconds() or _HEARTBEAT)
        self._messages: Generator[Message, None, None] = self._all()
        self._looks = threading.Thread(target=self._look, name="ves watch", daemon=True)
        self._looks.start()

    @property
    def resume_token(self) -> str:
        """That of the last message: a watch that begins with it goes on after that."""
        return self._request.resume_token

    def close(self) -> None:
        """Ends it."""
        self._closed.set()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        # Nothing may hold the call when the interpreter ends: grpcio's destructor waits for ever then.
        self._looks.join()
        try:
            self._messages.close()
        except ValueError:
            # Another thread reads it, and sees its end.
            pass

    def __enter__(self) -> Watch[Message]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        self._waits_since = time.monotonic()
        try:
            return next(self._messages)
        finally:
            self._waits_since = None

    def _left(self) -> float | None:
        return None if self._end is None else self._end - time.monotonic()

    def _all(self) -> Generator[Message, None, None]:
        backoff = Backoff()
        while not self._closed.is_set():
            error = None
            left = self._left()
            try:
                self._call = call = self._method(self._request, timeout=None if left is None else max(left, 0.001))
                if self._closed.is_set():
                    call.cancel()
                for message in call:
                    backoff = Backoff()
                    if message.resume_token:
                        self._request.resume_token = message.resume_token
                    yield message
            except grpc.RpcError as failed:
                error = VesError.of(failed)
                # A cancel is ours: it was closed, or it was silent for too long.
                if error.code() is grpc.StatusCode.CANCELLED and not error.reason:
                    error = None
                elif error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise error from None
            pause, left = backoff.pause(error), self._left()
            if left is not None and pause > left:
                raise error or VesError(grpc.StatusCode.DEADLINE_EXCEEDED, "the watch took too long")
            self._closed.wait(pause)

    def _look(self) -> None:
        """Gives up a stream that says nothing, not even that nothing changed."""
        while not self._closed.wait(self._silence / _SILENT):
            since, call = self._waits_since, self._call
            if since is not None and call is not None and time.monotonic() - since > self._silence:
                self._waits_since = time.monotonic()
                call.cancel()
