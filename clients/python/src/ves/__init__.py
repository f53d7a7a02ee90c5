"""Client of Ves: connect, wait, watch, exec, errors. The messages are in `ves.api.v1`."""

from ves.calls import pages
from ves.client import DEFAULT_TARGET, Client, Tls, connect
from ves.errors import VesError, Violation
from ves.session import Ended
from ves.watch import Watch

__all__ = [
    "DEFAULT_TARGET",
    "Client",
    "Ended",
    "Tls",
    "VesError",
    "Violation",
    "Watch",
    "connect",
    "pages",
]
