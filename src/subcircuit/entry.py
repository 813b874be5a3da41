"""What a public function does before its work: it leaves the caller's torch modes, and refuses arguments of another kind.

Inside ``torch.autocast`` products are rounded to half precision and scores change; inside ``torch.inference_mode`` nothing
has a gradient; a default dtype or device, TF32 or bfloat16 products change every constant and every product. They belong to
the caller's own code. Here precision is the dtype of the model and nothing else, so a result is the same in any of them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from inspect import Parameter, isgeneratorfunction, signature, unwrap
from types import UnionType
from typing import Any, ParamSpec, TypeVar, cast, get_args

import torch

from subcircuit.errors import SettingsError

P = ParamSpec("P")
R = TypeVar("R")

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
# how to come by what functions take
_MADE_WITH = {
    "Transformer": "load_model(…) returns one",
    "Task": "load_task(…) and build_task(…) return one",
    "Split": "load_split(…) returns one",
    "Problem": 'Problem.of(model, task, "logit_difference") is one',
    "Circuit": "discover(…).circuit is one, and Circuit.load(…) reads one",
    "Graph": "graph_of(model, scope) returns one",
}


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """The same function with torch's default modes inside, gradients among them, and its arguments checked.

    What it annotates as a model, a task, a behaviour, a circuit or a graph must be one.

    Raises:
        SettingsError: an argument is of another kind; names it, and what to pass.
    """
    asked = signature(function)
    kinds = {p.name: known for p in asked.parameters.values() if (known := _kinds(p))}

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        # too many or too few arguments: Python's own TypeError says it, from the call itself
        with suppress(TypeError):
            _check(function.__name__, kinds, asked.bind(*args, **kwargs).arguments)
        with default_modes(), torch.enable_grad():
            made = function(*args, **kwargs)
        return cast(R, _each(made)) if isgeneratorfunction(unwrap(function)) else made

    return guarded


def _each(items: Any) -> Iterator[Any]:
    """What a generator yields, made in the default modes and handed out in the caller's."""
    end = object()
    while True:
        with default_modes(), torch.enable_grad():
            item = next(items, end)
        if item is end:
            return
        yield item


@contextmanager
def default_modes() -> Iterator[None]:
    """A block that runs as if the caller had set none of torch's modes; ``no_grad`` stays."""
    with ExitStack() as stack:
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        for name in ("cuda", "mkldnn"):
            backend: Any = getattr(torch.backends, name).matmul
            if backend.fp32_precision not in ("none", "ieee"):
                stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
                backend.fp32_precision = "ieee"
        yield


def _kinds(parameter: Parameter) -> tuple[type, ...]:
    """The kinds of value that an argument may be; none where it may also be of one that cannot be checked."""
    kind = parameter.annotation
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return kinds if all(isinstance(each, type) and each.__name__ in _MADE_WITH for each in kinds) else ()


def _check(function: str, known: dict[str, tuple[type, ...]], arguments: dict[str, object]) -> None:
    for name, kinds in known.items():
        value = arguments.get(name)
        if name in arguments and not isinstance(value, kinds):
            inner = next((part for part in ("circuit", "task") if isinstance(getattr(value, part, None), kinds)), None)
            way = f"pass its .{inner}" if inner else _MADE_WITH[kinds[0].__name__]
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise SettingsError(f"{function}: {name} must be a {wanted}, not a {type(value).__name__}: {way}.")
