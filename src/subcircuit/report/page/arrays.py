"""Arrays of numbers inside JSON: little-endian bytes in base64, as a browser's typed arrays read them."""

import base64
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from subcircuit.text import inert

Json: TypeAlias = dict[str, Any]

_TYPES = {"uint8": "u1", "uint16": "u2", "uint32": "u4", "int16": "i2", "float32": "f4"}


def packed(values: NDArray[Any]) -> Json:
    """An array as ``{"type", "data"}``; its shape is known to the reader."""
    code = _TYPES[values.dtype.name]
    return {"type": code, "data": base64.b64encode(np.ascontiguousarray(values).astype(f"<{code}").tobytes()).decode("ascii")}


def narrow(indices: NDArray[Any]) -> NDArray[Any]:
    """Indices in 16 bits where they fit, otherwise in 32."""
    return indices.astype(np.uint16 if indices.max(initial=0) < 1 << 16 else np.uint32)


def unpacked(content: Json) -> NDArray[Any]:
    """The inverse of `packed`, flat."""
    return np.frombuffer(base64.b64decode(content["data"]), dtype=f"<{content['type']}")


def quantised(values: NDArray[np.float64]) -> Json:
    """Rows of numbers in 16 bits: each row is off by at most its largest size / 65,534. ``scale`` is what 1 stands for."""
    largest = np.abs(values).max(axis=-1, initial=0.0)
    # what is smaller than any effect would make a scale of zero
    scale = np.where(largest > 1e-300, largest, 1.0) / 32767
    return {**packed(np.rint(values / scale[..., None]).astype(np.int16)), "scale": scale.tolist()}


def finite(value: float) -> float | None:
    """A number that JSON can hold, in seven digits."""
    return float(f"{value:.7g}") if np.isfinite(value) else None


def shown(token: str) -> str:
    """A token as it is shown: line breaks and tabs are signs, whatever else does not print is inert."""
    return inert(token.replace("\r\n", "↵").replace("\n", "↵").replace("\t", "⇥"))
