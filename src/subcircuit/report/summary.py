"""The summary of a circuit in numbers, read from the circuit and its record."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from subcircuit.graph import Circuit, Numbers, Record
from subcircuit.search import faithfulness_of, meaning_of_scores, warnings_of

WARNING = "warning"


@dataclass(frozen=True)
class Summary:
    """The numbers of a circuit and of the search that found it; None for unknown values.

    Args:
        edges_total, edges_kept, nodes_total, nodes_kept: of the graph and of the circuit; ``logits`` counts as a node.
        scope: level, kv, split_embeddings, overrides and positions.
        model, revision, origin, dtype, task, examples, seed, ablation, metric, method, parameters: as recorded.
        metric_model, metric_circuit, metric_corrupted: the metric for the whole model, the circuit, and every edge cut.
        kl: mean KL(model ‖ circuit) in nats.
        logit_difference_model, logit_difference_circuit, logit_difference_corrupted: mean correct minus mean wrong logit of the same.
        edges_selected: how many edges were selected by their scores, before those on no path were dropped.
        metric_before: the metric before a node was looked into.
        scores: what the scores of the edges mean.
        warnings: what to know before believing in the circuit, and the way out.
        trials, borderline, seconds, forward_seconds: what the search cost.
        test, search: what the circuit does on prompts that it was not found with, and on those of the search.
        held_out: whether prompts were set apart; None for circuits of earlier versions.
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
    logit_difference_corrupted: float | None = None
    edges_selected: int | None = None
    metric_before: float | None = None
    trials: int | None = None
    borderline: int | None = None
    seconds: float | None = None
    forward_seconds: float | None = None
    scores: str | None = None
    warnings: tuple[str, ...] = ()
    test: Numbers | None = None
    search: Numbers | None = None
    held_out: bool | None = None

    @staticmethod
    def of(circuit: Circuit) -> "Summary":
        """The summary of a circuit, with or without a record."""
        sizes: dict[str, Any] = {
            "edges_total": circuit.graph.n_edges,
            "edges_kept": circuit.n_edges,
            "nodes_total": (len(circuit.graph.writers) + 1) * len(circuit.graph.positions),
            "nodes_kept": len(circuit.nodes),
            "scope": asdict(circuit.graph.scope)
            | {"overrides": (*circuit.graph.scope.overrides, *circuit.graph.from_elsewhere.items())},
            "scores": None if circuit.scores is None else meaning_of_scores(circuit.record),
            "warnings": warnings_of(circuit),
        }
        return Summary(**sizes, **({} if circuit.record is None else _recorded(circuit.record)))

    @property
    def forward_equivalents(self) -> float | None:
        """Cost of the search in units of one plain forward pass over the same prompts."""
        return _ratio(self.seconds, self.forward_seconds)

    @property
    def faithfulness(self) -> float | None:
        """f of the circuit on the search prompts: 1 for the model, 0 with every edge cut."""
        ends = (self.metric_circuit, self.metric_model, self.metric_corrupted)
        known = [end for end in ends if end is not None and math.isfinite(end)]
        return faithfulness_of(*known) if len(known) == len(ends) else None

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
        return f"{self.edges_kept:,} of {self.edges_total:,} edges ({percent(self.edges_kept, self.edges_total)})"

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
            self._faithful,
            None if self.kl is None or kl_in_title else f"KL {self.kl:.3g}",
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
            *self._unseen,
            ("metric", _beside(self.metric, self.metric_circuit, self.metric_model, self.metric_corrupted)),
            ("faithfulness", self._faithfulness if self.search is None else ""),
            ("KL(model ‖ circuit)", "" if self.kl is None else f"{self.kl:.4g} nats"),
            ("logit difference", self._logit_difference),
            ("scores", self.scores or ""),
            ("trials", "" if self.trials is None else f"{self.trials:,}"),
            ("borderline decisions", "" if self.borderline is None else f"{self.borderline:,}, decided in float64"),
            ("seconds", cost or ("" if self.seconds is None else f"{self.seconds:,.1f}")),
            *((WARNING, warning) for warning in self.warnings),
        )
        return tuple((name, value) for name, value in rows if value)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; a number that is not finite becomes null."""
        parts = {name: None if part is None else part.model_dump(mode="json") for name, part in self._parts.items()}
        derived = {name: getattr(self, name) for name in ("forward_equivalents", "faithfulness", "threshold")}
        return {name: _finite(value) for name, value in {**asdict(self), **parts, **derived}.items()}

    @property
    def _faithful(self) -> str | None:
        """Faithfulness in a few words: on unseen prompts where there are any."""
        if self.test is not None:
            return f"faithfulness {_two(self.test.faithfulness)} on {_prompts(self.test.examples, 'unseen')}"
        return None if self.faithfulness is None else f"faithfulness {_two(self.faithfulness)} (search prompts)"

    @property
    def _parts(self) -> dict[str, Numbers | None]:
        return {"test": self.test, "search": self.search}

    @property
    def _unseen(self) -> list[tuple[str, str]]:
        """The circuit's results on held-out prompts, followed by those on the prompts of the search."""
        if self.held_out is False:
            first = ("on unseen prompts", "not measured: there are no test prompts")
        else:
            first = ("", "") if self.test is None else (f"on {_prompts(self.test.examples, 'unseen')}", _in_words(self.test))
        of_search = (
            None if self.search is None else (f"on the {_prompts(self.search.examples, 'search')}", _in_words(self.search))
        )
        return [first, *([] if of_search is None else [of_search])]

    @property
    def _kv(self) -> str | None:
        return "keys and values grouped" if self.scope["kv"] == "grouped" and self.scope["level"] == "qkv" else None

    @property
    def _overrides(self) -> list[str]:
        return [f"{component}={level}" for component, level in self.scope["overrides"]]

    @property
    def _embeddings(self) -> str | None:
        return "token and position embeddings split" if self.scope["split_embeddings"] else None

    @property
    def _places(self) -> str | None:
        return {"each": "a node at each position", "roles": "a node at each token role"}.get(self.scope["positions"])

    @property
    def _faithfulness(self) -> str:
        if self.faithfulness is None:
            return ""
        return f"{round(self.faithfulness, 3) + 0.0:.3f} on the search prompts (1: the model; 0: every edge cut)"

    @property
    def _logit_difference(self) -> str:
        if self.metric == "logit_difference":
            return ""
        return _beside(None, self.logit_difference_circuit, self.logit_difference_model, self.logit_difference_corrupted)


_SELECTION = ("select", "least", "n", "by")

_RESULTS = {
    "metric_model": "metric_model",
    "metric_circuit": "metric_circuit",
    "metric_corrupted": "metric_corrupted",
    "kl_circuit": "kl",
    "logit_difference_model": "logit_difference_model",
    "logit_difference_circuit": "logit_difference_circuit",
    "logit_difference_corrupted": "logit_difference_corrupted",
    "edges_selected": "edges_selected",
    "metric_before": "metric_before",
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
        "test": _part(record.results, "test"),
        "search": _part(record.results, "search"),
        "held_out": None if record.task.split is None else record.task.split.test is not None,
    }


def percent(part: int, whole: int) -> str:
    """``0.19 %``: two digits, and neither 0 nor 100 where it is not.

    Examples:
        >>> percent(240, 123_211), percent(262, 262), percent(261, 262), percent(1, 10**7), percent(0, 5)
        ('0.19 %', '100 %', '99.6 %', '0.00001 %', '0 %')
    """
    share = 100 * part / whole if whole else 0.0
    if share in (0.0, 100.0):
        return f"{share:.0f} %"
    digits = max(0, 1 - math.floor(math.log10(abs(share))))
    while share < 100 <= float(f"{share:.{digits}f}"):
        digits += 1
    text = f"{share:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def _beside(name: str | None, circuit: float | None, model: float | None, empty: float | None) -> str:
    """``logit_difference 3 (model 4, every edge cut 0)``."""
    if circuit is None:
        return ""
    ends = [f"{end} {_number(value)}" for end, value in (("model", model), ("every edge cut", empty)) if value is not None]
    return " ".join(filter(None, (name, _number(circuit), f"({', '.join(ends)})" if ends else "")))


def _part(results: Mapping[str, Any], name: str) -> Numbers | None:
    """The numbers on one part of the prompts; None where a file from elsewhere has something else there."""
    try:
        return Numbers.model_validate(results.get(name))
    except ValidationError:
        return None


def _in_words(numbers: Numbers) -> str:
    """``faithfulness 0.58 (0.47 to 0.69) · KL 3.22 · accuracy 0.86 · top-1 0.31``."""
    ends = "" if numbers.interval is None else f" ({_two(numbers.interval[0])} to {_two(numbers.interval[1])})"
    kl = None if numbers.kl is None else f"KL {numbers.kl:.3g}"
    named = (("accuracy", numbers.accuracy), ("top-1", numbers.top1))
    return _join(
        f"faithfulness {_two(numbers.faithfulness)}{ends}",
        kl,
        *(f"{name} {_two(value)}" for name, value in named if value is not None),
        numbers.why,
    )


def _two(value: float | None) -> str:
    """Two decimals; in thousands and above, three digits."""
    if value is None:
        return "undefined"
    # what rounds to nothing has no sign
    return f"{round(value, 2) + 0.0:.2f}" if abs(value) < 1000 else f"{value:.3g}"


def _prompts(count: int, kind: str) -> str:
    return f"{count} {kind} {'prompt' if count == 1 else 'prompts'}"


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
