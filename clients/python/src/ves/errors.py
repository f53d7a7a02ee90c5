"""Why a call or an operation failed, for programs: read from google.rpc.Status. Never here: what is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

# Under which a call's whole status comes.
_DETAILS = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Violation:
    """A field of the request that is wrong."""

    field: str
    """Its whole path: "container.spec.hostname"."""
    message: str
    """For people: what is wrong with it."""


class VesError(grpc.RpcError):
    """A call failed, or an operation did. Branch on `reason`; the message is for people and may change."""

    def __init__(self, code: grpc.StatusCode, message: str, reason: str = "") -> None:
        super().__init__(message)
        self._code = code
        self.message = message
        self.reason = reason
        """Its name in `Reason` without REASON_, such as "NAME_TAKEN"; empty where Ves did not make the status: the
        connection failed, the deadline passed."""
        self.facts: dict[str, str] = {}
        """What is documented at each reason."""
        self.violations: list[Violation] = []
        """All fields of the request that are wrong."""
        self.retry_after: float | None = None
        """After how many seconds the same call is worth repeating, where it is."""

    def code(self) -> grpc.StatusCode:
        """The code of gRPC."""
        return self._code

    def details(self) -> str:
        """The message, as grpc.Call has it."""
        return self.message

    def __str__(self) -> str:
        return f"{self.reason or self._code.name}: {self.message}"

    @classmethod
    def of(cls, failed: Any) -> VesError:
        """Of a call that failed, or the exception of one."""
        if isinstance(failed, VesError):
            return failed
        for key, value in failed.trailing_metadata() or ():
            if key == _DETAILS:
                return cls.of_status(status_pb2.Status.FromString(value))
        return cls(failed.code(), failed.details() or "")

    @classmethod
    def of_status(cls, status: status_pb2.Status) -> VesError:
        """Of a status in a message, such as the error of an operation."""
        error = cls(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message)
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            retry = error_details_pb2.RetryInfo()
            bad = error_details_pb2.BadRequest()
            if detail.Unpack(info) and info.domain == "ves":
                error.reason, error.facts = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                error.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
            elif detail.Unpack(bad):
                error.violations = [Violation(v.field, v.description) for v in bad.field_violations]
        return error
