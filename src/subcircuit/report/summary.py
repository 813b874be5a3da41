"""What there is to say of a circuit in numbers, read from the record that the search left with it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from subcircuit.graph import Circuit, Record


@dataclass(frozen=True)
class Summary:
    """The numbers of a circuit and of the search that found it; None for what is not known.

    Args:
        edges_total, edges_kept, nodes_total, nodes_kept: of the graph and of the circuit; ``logits`` counts as a node.
        scope: level, kv, split_embeddings, overrides and positions.
        model, revision, origin, dtype, task, examples, seed, ablation, metric, method, parameters: as recorded.
        metric_model, metric_circuit, metric_corrupted: the metric for the whole model, the circuit, and every edge cut.
        kl: mean KL(model ‖ circuit) in nats.
        logit_difference_model, logit_difference_circuit: mean correct minus mean wrong logit.
        trials, borderline, seconds, forward_seconds: what the search cost.
    """

    edges_total: int
    edges_kept: int
    nodes_total: int
    nodes_kept: int
    scope: Mapping[str, Any]
    model: str | None = None
    revision: str | None = None
    origin: str | None = None
    dtype: str | None = None
    task: str | None = None
    examples: int | None = None
    seed: int | None = None
    ablation: str | None = None
    metric: str | None = None
    method: str | None = None
    parameters: Mapping[str, Any] | None = None
    metric_model: float | None = None
    metric_circuit: float | None = None
    metric_corrupted: float | None = None
    kl: float | None = None
    logit_difference_model: float | None = None
    logit_difference_circuit: float | None = None
    trials: int | None = None
    borderline: int | None = None
    seconds: float | None = None
    forward_seconds: float | None = None

    @staticmethod
    def of(circuit: Circuit) -> "Summary":
        """The summary of a circuit, with or without a record."""
        sizes: dict[str, Any] = {
            "edges_total": circuit.graph.n_edges,
            "edges_kept": circuit.n_edges,
            "nodes_total": (len(circuit.graph.writers) + 1) * len(circuit.graph.places),
            "nodes_kept": len(circuit.nodes),
            "scope": asdict(circuit.graph.scope),
        }
        return Summary(**sizes, **({} if circuit.record is None else _recorded(circuit.record)))

    @property
    def forward_equivalents(self) -> float | None:
        """Cost of the search in units of one plain forward pass over the same prompts."""
        return _ratio(self.seconds, self.forward_seconds)

    @property
    def logit_difference_kept(self) -> float | None:
        """The share of the model's logit difference that the circuit keeps."""
        return _ratio(self.logit_difference_circuit, self.logit_difference_model)

    @property
    def threshold(self) -> float | None:
        """The method's threshold, if it has one."""
        return (self.parameters or {}).get("threshold")

    @property
    def selection(self) -> str | None:
        """How the circuit was made of scores, such as ``top 200 by absolute score``; None if the method decided itself."""
        known = self.parameters or {}
        match known.get("select"):
            case "threshold":
                return f"score at least {known['least']:g} ({known['by']})"
            case "top-n":
                return f"top {known['n']:,} by {known['by']} score"
            case "greedy":
                return f"{known['n']:,} grown from the logits by {known['by']} score"
            case _:
                return None

    @property
    def share(self) -> str:
        """``240 of 123,211 edges (0.19 %)``."""
        percent = 100 * self.edges_kept / self.edges_total if self.edges_total else 0.0
        return f"{self.edges_kept:,} of {self.edges_total:,} edges ({percent:.2g} %)"

    @property
    def title(self) -> str:
        """One line: task, model, edges, value of the metric."""
        return _join(
            self.task,
            None if self.model is None else _last_part(self.model),
            f"{self.edges_kept:,} of {self.edges_total:,} edges",
            None if self.metric_circuit is None else f"{self.metric} {self.metric_circuit:.3g}".replace("_", " "),
        )

    @property
    def caption(self) -> str:
        """One line of what else is known: faithfulness, settings, cost."""
        kl_in_title = self.metric == "kl_divergence" and self.metric_circuit is not None
        return _join(
            None if self.kl is None or kl_in_title else f"KL {self.kl:.3g}",
            self._logit_difference,
            None if self.method is None else self.method + ("" if self.threshold is None else f", threshold {self.threshold:g}"),
            self.selection,
            None if self.ablation is None else f"{self.ablation} ablation",
            _pairs(self.examples),
        )

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """The summary table: a name and a value each, rows of unknown value left out."""
        settings = {k: v for k, v in (self.parameters or {}).items() if self.selection is None or k not in _SELECTION}
        method = None if self.method is None else self.method + "".join(_setting(k, v) for k, v in settings.items())
        cost = (
            None
            if self.forward_equivalents is None
            else f"{self.seconds:,.1f} = {self.forward_equivalents:,.0f} plain forward passes"
        )
        rows = (
            ("model", _join(self.model, self.origin, self.dtype)),
            (
                "task",
                _join(self.task, _pairs(self.examples), f"seed {self.seed}") if self.task else "",
            ),
            ("method", _join(method, None if self.ablation is None else f"{self.ablation} ablation")),
            (
                "scope",
                ", ".join(str(v) for v in (self.scope["level"], self._kv, self._embeddings, *self._overrides, self._places) if v),
            ),
            ("selection", self.selection or ""),
            ("edges kept", self.share),
            ("nodes kept", f"{self.nodes_kept:,} of {self.nodes_total:,}"),
            ("metric", self._metric),
            ("KL(model ‖ circuit)", "" if self.kl is None else f"{self.kl:.4g} nats"),
            ("logit difference", (self._logit_difference or "").removeprefix("logit difference ")),
            ("trials", "" if self.trials is None else f"{self.trials:,}"),
            ("borderline decisions", "" if self.borderline is None else f"{self.borderline:,}, decided in float64"),
            ("seconds", cost or ("" if self.seconds is None else f"{self.seconds:,.1f}")),
        )
        return tuple((name, value) for name, value in rows if value)

    def to_json(self) -> dict[str, Any]:
        """Everything, as values that JSON can hold: what is not a finite number is null."""
        derived = {name: getattr(self, name) for name in ("forward_equivalents", "logit_difference_kept", "threshold")}
        return {name: _finite(value) for name, value in {**asdict(self), **derived}.items()}

    @property
    def _kv(self) -> str | None:
        return "keys and values grouped" if self.scope["kv"] == "grouped" and self.scope["level"] == "qkv" else None

    @property
    def _overrides(self) -> list[str]:
        return [f"{component}={level}" for component, level in self.scope["overrides"]]

    @property
    def _embeddings(self) -> str | None:
        return "token and position embeddings apart" if self.scope["split_embeddings"] else None

    @property
    def _places(self) -> str | None:
        return {"each": "a node at each position", "roles": "a node at each token role"}.get(self.scope["positions"])

    @property
    def _metric(self) -> str:
        if self.metric is None or self.metric_circuit is None:
            return ""
        ends = (("model", self.metric_model), ("every edge cut", self.metric_corrupted))
        return (
            f"{self.metric} {_number(self.metric_circuit)} ("
            + ", ".join(f"{name} {_number(value)}" for name, value in ends if value is not None)
            + ")"
        )

    @property
    def _logit_difference(self) -> str | None:
        if self.logit_difference_circuit is None or self.logit_difference_model is None:
            return None
        kept = "" if self.logit_difference_kept is None else f" ({100 * self.logit_difference_kept:.0f} % kept)"
        return f"logit difference {self.logit_difference_circuit:.3g} of {self.logit_difference_model:.3g}{kept}"


_SELECTION = ("select", "least", "n", "by")

_RESULTS = {
    "metric_model": "metric_model",
    "metric_circuit": "metric_circuit",
    "metric_corrupted": "metric_corrupted",
    "kl_circuit": "kl",
    "logit_difference_model": "logit_difference_model",
    "logit_difference_circuit": "logit_difference_circuit",
    "trials": "trials",
    "borderline": "borderline",
    "seconds": "seconds",
    "forward_seconds": "forward_seconds",
}


def _recorded(record: Record) -> dict[str, Any]:
    """A record's entries under the summary's names; results that are no numbers are left out."""
    # circuits of earlier versions have their timings among their results
    known = {to: {**record.results, **record.timings}.get(name) for name, to in _RESULTS.items()}
    return {
        "model": record.model.name,
        "revision": record.model.revision,
        "origin": record.model.origin,
        "dtype": record.model.dtype,
        "task": record.task.name,
        "examples": record.task.parameters.get("examples"),
        "seed": record.seed,
        "ablation": record.ablation,
        "metric": record.metric,
        "method": record.method.name,
        "parameters": record.method.parameters,
        **{to: value for to, value in known.items() if isinstance(value, int | float)},
    }


def _number(value: float) -> str:
    """Four digits; what is left of zero after float32 rounding is zero."""
    return "0" if abs(value) < 1e-6 else f"{value:.4g}"


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _setting(name: str, value: Any) -> str:
    """``, threshold 0.02``, ``, whole input``; nothing for a setting that is left open or off."""
    words = name.replace("_", " ")
    match value:
        case None | False:
            return ""
        case True:
            return f", {words}"
        case float():
            return f", {words} {value:g}"
        case _:
            return f", {words} {value}"


def _pairs(count: int | None) -> str | None:
    return None if count is None else f"{count} {'pair' if count == 1 else 'pairs'} of prompts"


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _join(*parts: str | None) -> str:
    return " · ".join(part for part in parts if part)
