"""Search methods: functions from a model, its graph and a behaviour to a circuit or to scores of edges."""

from subcircuit.search.acdc import Acdc, acdc
from subcircuit.search.behaviour import Behaviour
from subcircuit.search.discover import METHODS, Method, discover
from subcircuit.search.result import AcdcResult, OnStep, Step

__all__ = ["METHODS", "Acdc", "AcdcResult", "Behaviour", "Method", "OnStep", "Step", "acdc", "discover"]
