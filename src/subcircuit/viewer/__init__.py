"""The viewer: a server on this machine alone, and the page that it sends."""

from subcircuit.viewer.app import make_app
from subcircuit.viewer.computations import Computations
from subcircuit.viewer.guard import Guard
from subcircuit.viewer.serve import free_socket, serve

__all__ = ["Computations", "Guard", "free_socket", "make_app", "serve"]
