"""The table of faults names tests that there are, and the suite runs with the network cut."""

import re
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = re.findall(r"^\| (\d+) \|(.*)\|$", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_fault_has_a_test_that_there_is() -> None:
    assert {int(number) for number, _ in ROWS} >= set(range(1, 27))
    for number, row in ROWS:
        named = re.findall(r"`(tests/\S+)::(\w+)`", row)
        assert named, f"fault {number} has no test"
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"


@pytest.mark.parametrize("address", ["192.0.2.1", "example.org", "2001:db8::1"])
def test_the_network_is_cut(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as there, pytest.raises(OSError, match="the network is cut"):
        there.connect((address, 9))
    with socket.socket() as nobody, pytest.raises(OSError, match=r"refused|timed out"):
        nobody.connect(("127.0.0.1", 9))
