"""Loading of checkpoints into config and weights: one tensor map per family, and ``resolve`` from names to files."""

from subcircuit.model.load.builtin import BuiltIn, ModelListing, Shipped, models
from subcircuit.model.load.families import architectures, read_model
from subcircuit.model.load.resolve import load_model

__all__ = ["BuiltIn", "ModelListing", "Shipped", "architectures", "load_model", "models", "read_model"]
