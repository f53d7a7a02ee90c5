"""Commands that are run inside a container. Never here: retries, as a command may have run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator

import grpc

from ves.api import v1
from ves.errors import VesError

# What one message may carry.
_PIECE = 64 << 10


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed where nobody else took it."""

    code: int | None
    """Its exit status; none where a signal killed it."""
    signal: int | None
    """The signal that killed it, if one did."""
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.code == 0


class _Output:
    """Output that is kept up to a bound, or handed on."""

    def __init__(self, to: Callable[[bytes], Any] | None, most: int) -> None:
        self.kept = bytearray()
        self._to, self._most = to, most

    def take(self, data: bytes) -> None:
        if self._to is not None:
            self._to(data)
        elif len(self.kept) + len(data) > self._most:
            why = f"the command prints more than {self._most} bytes; hand in stdout and stderr, or raise max_output"
            raise VesError(grpc.StatusCode.RESOURCE_EXHAUSTED, why)
        else:
            self.kept += data


def _requests(start: v1.ExecStart, stdin: bytes | Iterable[bytes]) -> Iterator[v1.ExecRequest]:
    yield v1.ExecRequest(start=start)
    for data in (stdin,) if isinstance(stdin, bytes) else stdin:
        for at in range(0, len(data), _PIECE):
            yield v1.ExecRequest(stdin=data[at : at + _PIECE])
    yield v1.ExecRequest(stdin_end=v1.StdinEnd())


def run(
    method: Any,
    start: v1.ExecStart,
    stdin: bytes | Iterable[bytes],
    stdout: Callable[[bytes], Any] | None,
    stderr: Callable[[bytes], Any] | None,
    timeout: float | None,
    max_output: int,
) -> Ended:
    """Runs a command to its end; see Client.exec."""
    out, err = _Output(stdout, max_output), _Output(stderr, max_output)
    call = method(_requests(start, stdin), timeout=timeout)
    try:
        for message in call:
            part = message.WhichOneof("part")
            if part == "stdout":
                out.take(message.stdout)
            elif part == "stderr":
                err.take(message.stderr)
            elif part == "exit":
                how = message.exit.WhichOneof("how")
                code = message.exit.code if how == "code" else None
                signal = message.exit.signal if how == "signal" else None
                return Ended(code, signal, bytes(out.kept), bytes(err.kept))
    except grpc.RpcError as failed:
        raise VesError.of(failed) from None
    finally:
        call.cancel()
    raise VesError(grpc.StatusCode.UNKNOWN, "the session ended without the command's exit status")
