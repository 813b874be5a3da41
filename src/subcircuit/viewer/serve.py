"""The server process: its port, the browser, and its end."""

import errno
import socket
import webbrowser
from collections.abc import Callable
from threading import Timer

import uvicorn

from subcircuit.errors import SettingsError
from subcircuit.viewer.guard import Guard, is_loopback

PORT = 8765
_TRIES = 50
SECONDS_TO_START = 0.6


def free_socket(host: str, port: int) -> socket.socket:
    """A bound socket: at this port, or at the next free one.

    Raises:
        SettingsError: there is none, or no such address on this machine.
    """
    for candidate in range(port, min(port + _TRIES, 65536)):
        try:
            family = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0][0]
            made = socket.socket(family, socket.SOCK_STREAM)
            try:
                # not while another server listens there, but at once after one has ended
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((host, candidate))
                made.listen(64)
            except OSError:
                made.close()
                raise
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            raise SettingsError(f"--host {host} is not an address of this machine: {error.strerror or error}") from None
        return made
    raise SettingsError(f"ports {port} to {port + _TRIES - 1} are all in use: choose another with --port")


def address_of(bound: socket.socket, host: str, token: str) -> str:
    """The server's address for a browser; beyond loopback it includes the token."""
    port = bound.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + ("" if is_loopback(host) else f"?token={token}")


def serve(app: Guard, bound: socket.socket, address: str, *, browser: bool, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        app: the ASGI application.
        bound: a listening socket.
        address: address of the page.
        browser: whether to open the page in a browser.
        say: called with the address, and with a note if no browser could be opened.
    """
    say(f"viewer   {address}   (Ctrl-C stops it)")

    def show() -> None:
        if not open_browser(address):
            say("no browser was found: open the address yourself")

    timer = Timer(SECONDS_TO_START, show)
    timer.daemon = True
    if browser:
        timer.start()
    # without a log_config of its own uvicorn leaves the logging of the process alone: its own would close others' handlers
    settings = uvicorn.Config(
        app, log_config=None, log_level="error", access_log=False, timeout_keep_alive=15, limit_concurrency=64, ws="none"
    )
    try:
        uvicorn.Server(settings).run(sockets=[bound])
    finally:
        timer.cancel()
        bound.close()


def open_browser(address: str) -> bool:
    """Open the address in a browser; return whether there is one."""
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False
