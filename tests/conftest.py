"""Set before transformers is imported: the whole suite runs with the network cut."""

import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings

# tiny models still take longer than hypothesis expects; on CI the same examples run every time
settings.register_profile("subcircuit", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("subcircuit")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback or host in socket.gethostbyname_ex(socket.gethostname())[2]
    except ValueError:
        return host == "localhost"


def _on_this_machine(really: Callable[..., Any]) -> Callable[..., Any]:
    def connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            raise OSError(f"the network is cut in tests, and something asked for {address}")
        return really(self, address)

    return connect


for _name in ("connect", "connect_ex"):
    setattr(socket.socket, _name, _on_this_machine(getattr(socket.socket, _name)))
