"""The whole suite runs with the network cut, which is set before transformers is imported; marks that fixtures and parameters imply."""

import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# tiny models still take longer than hypothesis expects; on CI the same examples run every time
settings.register_profile("subcircuit", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("subcircuit")


MARKED = {"browser": "browser", "real_model": "model"}
# learned positions, rotary ones with grouped heads, experts: they stand for all families while one works
STAND_INS = {"gpt2", "llama_gqa", "qwen2_moe"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    # not before the package's types are checked as they run
    from tests.tiny_models import FAMILIES, HF_FAMILIES

    others = {*FAMILIES, *HF_FAMILIES} - STAND_INS
    for item in items:
        for fixture in MARKED.keys() & set(item.fixturenames):
            item.add_marker(MARKED[fixture])
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        named = {value for value in given if isinstance(value, str)}
        if named & others and not named & STAND_INS:
            item.add_marker("slow")


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
