"""Who may ask the server for what, and what it does with those who ask badly."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from subcircuit.errors import SettingsError
from subcircuit.viewer.app import make_app
from subcircuit.viewer.computations import Computations
from subcircuit.viewer.guard import LARGEST_BODY
from subcircuit.viewer.serve import address_of, free_socket
from tests.viewer.conftest import TOKEN, Running, Sample

MEASURE = {"circuit": 0, "edges": 3, "all": False}


def post(server: Running, path: str = "api/measure", json: Any = MEASURE, **headers: str) -> httpx.Response:
    ours = {"Origin": server.address.rstrip("/"), "X-Subcircuit-Token": TOKEN}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(server.address + path, json=json, headers={k: v for k, v in {**ours, **given}.items() if v}, timeout=20)


def test_the_page_that_the_server_sent_is_served(server: Running) -> None:
    answer = post(server)
    assert answer.status_code == 200
    assert 3 in [point["edges"] for point in answer.json()["points"]]


@pytest.mark.slow
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[::1", "evil.example:8765"])
def test_a_foreign_host_is_refused(server: Running, host: str) -> None:
    for method, path in (("GET", ""), ("GET", "page.js"), ("GET", "api/document"), ("POST", "api/measure")):
        assert httpx.request(method, server.address + path, headers={"Host": host}).status_code == 400


def test_a_foreign_origin_or_no_token_is_refused_on_all_that_changes_anything(server: Running) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        foreign = httpx.request(method, server.address + "api/measure", headers={"Origin": "http://evil.example"})
        assert foreign.status_code == 403, method
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"http://127.0.0.1:{server.port + 1}"},
        {"Origin": f"https://127.0.0.1:{server.port}"},
        {"X_Subcircuit_Token": ""},
        {"X_Subcircuit_Token": TOKEN[:-1]},
    ):
        assert post(server, **headers).status_code == 403, headers


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/static/page.html",
        "//etc/passwd",
        "/%00",
        "/page.js%00",
    ],
)
def test_no_path_leads_to_a_file(server: Running, path: str) -> None:
    with closing(socket.create_connection(("127.0.0.1", server.port))) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.split()[1] == b"404"
    assert b"root:" not in answer
    assert b"{tail}" not in answer


def test_every_answer_forbids_what_the_page_does_not_need(server: Running) -> None:
    for answer in (httpx.get(server.address), httpx.get(server.address + "nowhere"), post(server, X_Subcircuit_Token="")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        [],
        "x",
        {"circuit": "0", "edges": 1},
        {"circuit": 0, "edges": -1},
        {"circuit": 0, "edges": 1, "more": 1},
        {"circuit": 0.5},
    ],
)
def test_what_is_not_understood_is_refused(server: Running, asked: Any) -> None:
    assert post(server, json=asked).status_code == 422
    assert post(server, json={"circuit": 7, "edges": 1}).json()["error"].startswith("there is no circuit number 7")


def test_large_bodies_are_refused_before_they_are_read(server: Running) -> None:
    assert post(server, json={"circuit": 0, "edges": 1, "pad": "x" * LARGEST_BODY}).status_code == 413


def test_slow_clients_are_cut_off_and_hold_nobody_up(server: Running) -> None:
    head = (
        f"POST /api/measure HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: http://127.0.0.1:{server.port}\r\n"
        f"X-Subcircuit-Token: {TOKEN}\r\nContent-Length: 40\r\n\r\n{{"
    )
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(20)]
    for raw in slow:
        raw.sendall(head.encode())
    assert post(server).status_code == 200
    answers = [raw.recv(100) for raw in slow]
    assert all(answer.split()[1] == b"408" for answer in answers)
    for raw in slow:
        raw.close()


def test_beyond_loopback_everything_needs_the_token(sample: Sample) -> None:
    computations = Computations(lambda: list(sample.circuits), lambda: "1", lambda number, shown: sample.problem)
    app = make_app(computations, lambda: {"version": "1", "running": False}, host="0.0.0.0", token=TOKEN)

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://192.0.2.7:8765") as client:
            refused = [(await client.get(path)).status_code for path in ("/", "/page.js", "/api/document", "/?token=wrong")]
            opened = (await client.get(f"/?token={TOKEN}")).status_code
            # the cookie that came with the page opens the rest
            after = [(await client.get(path)).status_code for path in ("/page.js", "/api/document")]
            named = (await client.get("/", headers={"Host": "evil.example"})).status_code
        return [*refused, opened, *after, named]

    # a thread of its own, as the browser's driver keeps a loop running in this one
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(lambda: asyncio.run(ask())).result()
    assert answers == [403, 403, 403, 403, 200, 200, 200, 400]


def test_the_next_free_port_is_taken(sample: Sample) -> None:
    with free_socket("127.0.0.1", 8790) as first, free_socket("127.0.0.1", first.getsockname()[1]) as second:
        assert second.getsockname()[1] > first.getsockname()[1]
        assert address_of(second, "127.0.0.1", TOKEN) == f"http://127.0.0.1:{second.getsockname()[1]}/"
        assert address_of(second, "0.0.0.0", TOKEN).endswith(f"/?token={TOKEN}")
    with pytest.raises(SettingsError, match="not an address of this machine"):
        free_socket("192.0.2.1", 8790)


def test_a_page_is_read_while_something_is_measured(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[Any] = []
    measured: list[Any] = []

    def probe(number: int, shown: Any) -> Any:
        inside.append(computations.document()["version"])
        return sample.problem

    computations = Computations(lambda: list(sample.circuits), lambda: "1", probe)
    computations.measure(0, 2, kept_only=True)
    assert inside == ["1"]
    # what is known is not measured again
    first = computations.measure(0, 2, kept_only=True)
    monkeypatch.setattr("subcircuit.viewer.computations.measured_document", lambda *given: measured.append(given))
    assert computations.measure(0, 2, kept_only=True) == first
    assert measured == []
