"""Placement of models larger than a device: layers are stored elsewhere and copied when needed.

The first device is the model's own: it holds embeddings, unembedding and all activations, and computes everything. Layers may
be stored on it, on other devices, or in the machine's memory. A layer that is stored elsewhere is copied to the first device for
its use, and dropped when another one is used. So results do not depend on the placement to the last bit, and the first device
needs memory for its own layers and one more. Cost: every pass through the layers, forward or backward, copies the layers stored
elsewhere once; the relative cost falls with the number of rows that run together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from subcircuit.errors import SettingsError
from subcircuit.model.weights import Elsewhere, Weights, map_tensors


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """A device and the number of layers kept there; None: an even share of the layers that have no device yet."""

    device: torch.device
    layers: int | None = None


def parse_devices(text: str) -> tuple[DeviceShare, ...]:
    """``cuda:0``; ``cuda:0,cuda:1``; ``cuda:0=20,cpu``, the first 20 layers on one device and the others on the next.

    Raises:
        SettingsError: names the part that is not a device with a number of layers, or cannot be used.
    """
    return tuple(_device_share(part.strip(), text) for part in text.split(","))


def _device_share(part: str, text: str) -> DeviceShare:
    name, _, number = part.partition("=")
    if not name or ("=" in part and not number.isdecimal()):
        raise SettingsError(f"device {text!r}: {part!r} is not a device, or a device and its number of layers such as cuda:0=20")
    return DeviceShare(usable(name), int(number) if number else None)


def usable(device: str | torch.device) -> torch.device:
    """The device, if tensors can be there.

    Raises:
        SettingsError: there is none of this name.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(f"device {str(device)!r} cannot be used: {str(error).strip().splitlines()[0]}") from None
    return found


def devices_of(shares: Sequence[DeviceShare], n_layers: int) -> tuple[torch.device, ...]:
    """The device of each layer, in the order of the shares.

    Raises:
        SettingsError: the shares are of another number of layers.
    """
    free = [share for share in shares if share.layers is None]
    left = n_layers - sum(share.layers or 0 for share in shares)
    if left < 0 or (left and not free):
        raise SettingsError(
            f"the devices hold {n_layers - left} layers, and the model has {n_layers}: the numbers of layers must add up"
        )
    even = iter([left // len(free) + (i < left % len(free)) for i in range(len(free))])
    return tuple(share.device for share in shares for _ in range(next(even) if share.layers is None else share.layers))


def spread_weights(weights: Weights, shares: Sequence[DeviceShare], dtype: torch.dtype | None = None) -> Weights:
    """The weights on the first device, but for the layers that are kept on the others.

    Args:
        weights: wherever they are.
        shares: at least one.
        dtype: None leaves it.

    Raises:
        SettingsError: as ``devices_of``.
    """
    home = shares[0].device
    if len(shares) == 1 and shares[0].layers is None:
        return weights.to(home, dtype)
    devices = devices_of(shares, len(weights.layers))
    layers = tuple(
        map_tensors(layer, lambda tensor, device=device: tensor.to(device=device, dtype=dtype))
        for layer, device in zip(weights.layers, devices, strict=True)
    )
    return replace(replace(weights, layers=()).to(home, dtype), layers=Elsewhere(layers, home))
