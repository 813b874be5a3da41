"""Specs: all options of a run as one frozen value.

The command line parses its options into a spec, Python may build one, and ``run.json`` stores it. ``resume`` and ``--fork`` read it
back; ``--config`` and ``estimate`` take the same fields. A spec is checked in three steps: its types when it is made, its names by
``check`` before anything large is loaded, and the rest by ``load``, which brings model and prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from subcircuit.errors import SettingsError
from subcircuit.runs.option_texts import Scalar, as_settings, names_in, numbers, parse_settings, parse_size, parse_targets

if TYPE_CHECKING:
    from subcircuit.graph import By, Circuit, Graph, Scope, Selection
    from subcircuit.model import Transformer
    from subcircuit.search import LearnOptimal, Method, Problem, Refine
    from subcircuit.tasks import BosPolicy, Split

Say: TypeAlias = Callable[[str], None]

# settings that only plain ACDC has: with one of them, a search without a method is plain ACDC
_OF_ACDC = ("coarse_to_fine", "whole_input", "absolute", "head_order", "direction", "speculation")
_OPTIMAL = "optimal"


class Spec(BaseModel):
    """The options of a run; subclasses add the fields of their command.

    Args:
        command: the command's name.
        workers, ray: processes that share the work, as ``Pool`` takes them.

    Raises:
        SettingsError: a field is missing, unknown or of the wrong type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    # these change the computation, and not the result
    FREE: ClassVar[tuple[str, ...]] = ("device", "workers", "ray")
    # these may be paths; a run records only their last part, because runs are shared
    PATHS: ClassVar[tuple[str, ...]] = ("model", "task", "path")

    command: str
    workers: int = 1
    ray: str | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the input"
            raise SettingsError(f"{field} of {cls.__name__} is invalid: {first['msg']}") from None

    @staticmethod
    def parse(values: Mapping[str, Any]) -> "Spec":
        """The spec of the command that ``values`` names.

        Raises:
            SettingsError: the command has no runs, or a field is missing, unknown or of the wrong type.
        """
        command = values.get("command")
        kind = SPECS.get(command) if isinstance(command, str) else None
        if kind is None:
            raise SettingsError(f"command {str(command)[:40]!r} has no runs: expected one of {', '.join(SPECS)}")
        return kind(**values)

    def changed(self, **changes: Any) -> "Spec":
        """The spec with other values in some fields.

        Raises:
            SettingsError: a field does not exist or the value has the wrong type.
        """
        return type(self)(**{**dict(self), **changes})

    def recorded(self) -> "Spec":
        """The spec as a run records it, with only the last part of each path."""
        held = {name: getattr(self, name, None) for name in self.PATHS}
        return self.changed(**{name: type(value)(_last_part(value)) for name, value in held.items() if value is not None})

    def differences(self, other: "Spec") -> list[str]:
        """One line for each field in which a run of ``other`` could have another result."""
        ours, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return differences(*({name: value for name, value in each.items() if name not in self.FREE} for each in (ours, theirs)))


class _Settings(Spec):
    """A spec with settings by name."""

    settings: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("settings", mode="before")
    @classmethod
    def _parsed(cls, given: Any) -> Any:
        return as_settings(given)

    def own_settings(self) -> dict[str, Scalar]:
        """The settings of the method or methods."""
        return {name: value for name, value in self.settings.items() if not name.startswith(f"{_OPTIMAL}.")}

    def learning_settings(self) -> dict[str, Scalar]:
        """The settings for learning the constants of an optimal ablation."""
        prefix = f"{_OPTIMAL}."
        return {name.removeprefix(prefix): value for name, value in self.settings.items() if name.startswith(prefix)}


class _Targets(_Settings):
    """A spec of a refinement, with targets."""

    target: dict[str, float] = Field(default_factory=dict)

    @field_validator("target", mode="before")
    @classmethod
    def _targets(cls, given: Any) -> Any:
        return parse_targets(given or {})

    def targets(self) -> dict[str, float | int]:
        """The targets as settings of ``Refine``."""
        return {name: int(value) if name == "edges" else value for name, value in self.target.items()}


class _OfCircuit(Spec):
    """A spec that starts from a finished circuit.

    Args:
        path: the circuit's run directory or file.
        model, task, device, dtype, revision: overrides of what the circuit records; None keeps the recorded value.
    """

    path: Path
    model: str | None = None
    task: str | None = None
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None


class _OnTask(_Settings):
    """A spec of searches on a task; the fields are as in ``DiscoverSpec``."""

    model: str
    task: str
    examples: int | None = None
    split: str | None = None
    seed: int = 0
    metric: str | None = None
    ablation: str = "resample"
    scope: str = "qkv"
    bos: str = "auto"
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None

    def carried(self) -> "str | LearnOptimal":
        """The name of the ablation, or the settings for learning its constants."""
        from subcircuit.search import ablation_with

        return ablation_with(self.ablation, self.learning_settings(), self.seed)

    def _check_names(self) -> None:
        """Refuse unknown names of task, split, metric and policy."""
        from subcircuit.tasks import check_task, parse_shares
        from subcircuit.tasks import metric as metric_named

        check_task(self.task)
        if self.split is not None:
            parse_shares(self.split)
        if self.metric is not None:
            metric_named(self.metric)
        _bos_policy(self.bos)

    def _load_model(self, say: Say) -> "Transformer":
        from subcircuit.model import load_model

        say(f"loading {self.model}")
        return load_model(self.model, revision=self.revision, device=self.device, dtype=self.dtype, report=say)


class DiscoverSpec(_OnTask, _Targets):
    """Options of ``subcircuit discover`` and ``subcircuit estimate``: a search.

    Args:
        model: built-in name, Hugging Face id, directory or ``.gguf`` file.
        task: built-in name or a ``.jsonl`` file of prompts.
        examples: number of search prompts; None takes 8 of a built-in task, half of a file.
        split: shares of search, validation and test prompts in percent, as "50/20/30".
        seed: random seed for prompts and for stochastic methods.
        method: name of the search method. None is "acdc" with a threshold or another setting that only ACDC has, otherwise "refine".
        settings: settings of the method by name, and of the optimal ablation as ``optimal.NAME``.
        target: targets of a refinement: faithfulness, kl, edges.
        threshold: ACDC's τ; for methods that score edges, the smallest score of a kept edge.
        edges: number (``"200"``) or share (``"1%"``) of edges to keep, for methods that score edges.
        greedy: grow the circuit from the logits along the best edges instead of selecting the best edges overall.
        by: ranking of scores, "absolute" or "signed".
        metric, ablation, scope, kv, split_embeddings, bos: as ``discover``, ``Scope.named`` and ``load_task`` take them.
        revision, device, dtype: as ``load_model`` takes them.
    """

    command: str = Field(default="discover", pattern="^discover$")
    method: str = ""
    kv: str = "per_query_head"
    split_embeddings: bool = False
    threshold: float | None = None
    edges: str | None = None
    greedy: bool = False
    by: str = "absolute"

    @model_validator(mode="before")
    @classmethod
    def _with_method(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("method"):
            return values
        settings = as_settings(values.get("settings"))
        plain = not values.get("target") and (values.get("threshold") is not None or any(name in settings for name in _OF_ACDC))
        return {**values, "method": "acdc" if plain else "refine"}

    def check(self) -> None:
        """Refuse unknown names and fields that do not go together, before anything large is loaded.

        Raises:
            UnknownNameError: no task, method, setting, metric, ablation or scope has this name.
            SettingsError: fields that do not go together, or a value out of range.
            PromptError: the prompt file cannot be read.
        """
        from subcircuit.search import method_named
        from subcircuit.search.direction import check_start

        self._check_names()
        _ranking(self.by)
        if self.target and self.method != "refine":
            raise SettingsError(f"--target is an option of method refine, not of {self.method}: leave out --method or --target")
        ranks = method_named(self.method).ranks
        if not ranks and (self.edges is not None or self.greedy or self.by != "absolute"):
            way_out = ": set a size with --target edges=200" if self.method == "refine" else ""
            raise SettingsError(f"method {self.method} selects the edges itself, so it has no --edges, --greedy or --by{way_out}")
        if ranks and self.threshold is not None and (self.edges is not None or self.greedy):
            raise SettingsError("--threshold selects edges by score, --edges and --greedy by number: choose one of the two")
        check_start(self.ablation, getattr(self.configured(), "direction", "noising"))
        parse_size(self.edges or "1%")
        self.carried()
        self.resolved()

    def configured(self) -> "Method":
        """The method with its settings."""
        from subcircuit.search import method_named, method_with

        threshold = {} if self.threshold is None or method_named(self.method).ranks else {"threshold": self.threshold}
        return method_with(self.method, {**threshold, **self.targets(), **self.own_settings()}, self.seed)

    def resolved(self) -> "Scope":
        """The level at which the model is a graph."""
        from subcircuit.graph import Scope

        return Scope.named(self.scope, self.kv, self.split_embeddings)

    def selection(self, graph: "Graph") -> "Selection | None":
        """The rule that selects a circuit from scored edges; None for a method that selects the edges itself.

        Raises:
            SettingsError: the graph has fewer edges than requested.
        """
        from subcircuit.graph import Greedy, Threshold, TopN
        from subcircuit.graph.selection import check_selection
        from subcircuit.search import method_named

        if not method_named(self.method).ranks:
            return None
        by, (count, share) = _ranking(self.by), parse_size(self.edges or "1%")
        if self.threshold is not None:
            return Threshold(self.threshold, by)
        n = max(1, int(graph.n_edges * share)) if count is None else count
        selection = Greedy(n, by) if self.greedy else TopN(n, by)
        check_selection(graph, selection)
        return selection

    def load(self, say: Say = lambda message: None) -> "Search":
        """Model, prompts and settings of the search.

        Args:
            say: called with a line before each step that takes long.

        Raises:
            SubcircuitError: as ``check``; model or prompts cannot be loaded, or the settings do not go with them.
        """
        from subcircuit.engine import Mean
        from subcircuit.search import LearnOptimal, Problem
        from subcircuit.tasks import load_split

        self.check()
        model = self._load_model(say)
        split = load_split(
            self.task, model, examples=self.examples, seed=self.seed, bos=_bos_policy(self.bos), split=self.split
        ).to(model.device)
        carried, method = self.carried(), self.configured()
        learning = carried if isinstance(carried, LearnOptimal) else None
        # means replace constants that are not learned yet
        problem = Problem.of(model, split, self.metric, Mean() if isinstance(carried, LearnOptimal) else carried, self.resolved())
        selection = self.selection(problem.graph)
        method.check(problem)
        return Search(problem, split, method, selection, learning)

    def problem(self) -> "Problem":
        """The problem of the spec: model, graph, search prompts, metric and ablation.

        Raises:
            SubcircuitError: as ``load``.
        """
        return self.load().problem

    @staticmethod
    def of_circuit(circuit: "Circuit") -> "DiscoverSpec":
        """The spec of the search that found a circuit, from its record.

        Raises:
            SettingsError: the circuit has no record.
        """
        record = circuit.record
        if record is None:
            raise SettingsError("the circuit has no record of its search")
        settings = dict(record.method.parameters)
        rule = {name: settings.pop(name, None) for name in ("select", "n", "least", "by")}
        chosen: dict[str, Any] = {}
        match rule["select"]:
            case "threshold":
                chosen = {"threshold": rule["least"], "by": rule["by"]}
            case "top-n" | "greedy":
                chosen = {"edges": str(rule["n"]), "greedy": rule["select"] == "greedy", "by": rule["by"]}
        split = None if record.task.split is None else record.task.split.settings
        if split is None:
            prompts = {"seed": record.seed, **{name: record.task.parameters.get(name) for name in ("examples", "bos")}}
        else:
            shares = None if split.split is None else "/".join(f"{share:g}" for share in split.split)
            prompts = {"seed": split.seed, "examples": split.examples, "bos": split.bos, "split": shares}
        learning = settings.pop(_OPTIMAL, None) or {}
        revision = record.model.revision
        return DiscoverSpec(
            model=record.model.name,
            revision=None if revision is None or revision.startswith("sha256:") else revision,
            dtype=record.model.dtype,
            task=str(record.task.parameters.get("file", record.task.name)),
            metric=record.metric,
            ablation=record.ablation,
            scope=str(circuit.graph.scope),
            method=record.method.name,
            settings={**settings, **{f"{_OPTIMAL}.{name}": value for name, value in learning.items()}},
            **{name: value for name, value in prompts.items() if value is not None},
            **chosen,
        )


@dataclass(frozen=True)
class Search:
    """A spec's search with everything it needs.

    Args:
        problem: model, graph, search and validation prompts, metric and ablation. Means replace constants that are not learned yet.
        split: prompts of all parts.
        method: the method with its settings.
        selection: rule that selects a circuit from scored edges; None for a method that selects the edges itself.
        learning: settings for learning the constants of the ablation; None if there are none.
    """

    problem: "Problem"
    split: "Split"
    method: "Method"
    selection: "Selection | None"
    learning: "LearnOptimal | None"


class RefineSpec(_OfCircuit, _Targets):
    """Options of ``subcircuit refine``: a refinement of a finished circuit.

    Args:
        settings: settings of ``Refine`` by name.
        target: targets: faithfulness, kl, edges.
        path, model, task, device, dtype, revision: the circuit, and overrides of what it records; None keeps the recorded value.
    """

    command: str = Field(default="refine", pattern="^refine$")

    def configured(self) -> "Refine":
        """``Refine`` with its settings."""
        from subcircuit.search import Refine
        from subcircuit.search.settings import settings_of

        return settings_of("method refine", Refine, {**self.targets(), **self.settings})


class ZoomSpec(_OfCircuit):
    """Options of ``subcircuit zoom``: a search inside one node of a finished circuit.

    Args:
        component: name of the node.
        into: level at which the node is resolved.
        threshold: ACDC's τ; None takes that of the circuit's search.
        coarse_to_fine: cut groups of parts first.
        path, model, task, device, dtype, revision: the circuit, and overrides of what it records; None keeps the recorded value.
    """

    command: str = Field(default="zoom", pattern="^zoom$")
    component: str
    into: str
    threshold: float | None = None
    coarse_to_fine: bool = False


class StabilitySpec(_OfCircuit):
    """Options of ``subcircuit stability``: the search of a finished circuit again, on random halves of its prompts.

    Args:
        pairs: number of pairs of halves.
        consensus: share of the runs that must keep an edge of the consensus circuit.
        seed: random seed of the halves.
        path, model, task, device, dtype, revision: the circuit, and overrides of what it records; None keeps the recorded value.
    """

    command: str = Field(default="stability", pattern="^stability$")
    pairs: int = 10
    consensus: float = 0.9
    seed: int = 0


class _Methods(_Settings):
    """A spec that compares methods; their settings are called ``METHOD.NAME``."""

    methods: list[str] = Field(default_factory=list)
    by: str = "signed"
    seed: int = 0
    thresholds: str | None = None

    @field_validator("methods", mode="before")
    @classmethod
    def _without_none(cls, given: Any) -> Any:
        return given or []

    def order(self) -> "By":
        """The ranking of scores."""
        return _ranking(self.by)

    def cuts(self) -> tuple[float, ...] | None:
        """The thresholds for ACDC; None if they were not given."""
        return None if self.thresholds is None else numbers("thresholds", self.thresholds)


class SweepSpec(_OnTask, _Methods):
    """Options of ``subcircuit sweep``: a comparison of methods on a task.

    Args:
        examples: number of search prompts; None takes 32, or half of the prompts if there are fewer.
        eval_examples: number of test prompts; None takes those of the split.
        methods: names of the methods, each once; an item may contain several, separated by commas.
        settings: settings as ``METHOD.NAME``, and of the optimal ablation as ``optimal.NAME``.
        thresholds: ACDC's thresholds, separated by commas.
        batch_size: number of prompts per batch; it does not change the result.

    The other fields are as in ``DiscoverSpec``.
    """

    command: str = Field(default="sweep", pattern="^sweep$")
    eval_examples: int | None = None
    batch_size: int = 16

    EXAMPLES: ClassVar[int] = 32

    def check(self) -> None:
        """Refuse unknown names and values out of range, before anything large is loaded.

        Raises:
            UnknownNameError, SettingsError, PromptError: as ``DiscoverSpec.check``.
        """
        self._check_names()
        for derived in (self.order, self.cuts, self.configured, self.carried, self.resolved):
            derived()

    def configured(self) -> "list[Method]":
        """The methods with their settings."""
        return _configured(names_in(self.methods), self.own_settings(), self.seed)

    def resolved(self) -> "Scope":
        """The level at which the model is a graph."""
        from subcircuit.graph import Scope

        return Scope.named(self.scope)

    def load(self, say: Say = lambda message: None) -> "tuple[Transformer, Split]":
        """The model, and the split with search and test prompts.

        Args:
            say: called with a line before each step that takes long.

        Raises:
            SubcircuitError: as ``check``; model or prompts cannot be loaded, or the split has no test prompts.
        """
        from subcircuit.tasks import is_prompt_file, load_at_most, load_split

        self.check()
        model = self._load_model(say)
        examples, bos = self.examples, _bos_policy(self.bos)
        if examples is None and not is_prompt_file(self.task):
            there = len(load_at_most(self.task, model, examples=2 * self.EXAMPLES, seed=self.seed, bos=bos))
            examples = min(self.EXAMPLES, (there + 1) // 2)
        split = load_split(
            self.task, model, examples=examples, seed=self.seed, bos=bos, split=self.split, test=self.eval_examples
        )
        if split.test is None:
            raise SettingsError(
                f"--split {self.split} has no test prompts, and a sweep needs them to compare methods: choose another split"
            )
        return model, split


class ValidateSpec(_Methods):
    """Options of ``subcircuit validate``: searches of models whose circuits are known.

    Args:
        case: name of a known circuit, or "all".
        methods: names of the methods; empty takes acdc, and every method for "all".
        ablation: resample or zero; None takes resample, and both for "all".
        metric: None takes the case's own.
        direction: for methods that have one: noising, denoising, both.
        settings: settings as ``METHOD.NAME``.
        thresholds: ACDC's thresholds, separated by commas.
        model: model of a published circuit: name, directory or file.
        examples: number of prompts of published circuits.
    """

    command: str = Field(default="validate", pattern="^validate$")
    case: str
    by: str = "absolute"
    ablation: str | None = None
    metric: str | None = None
    direction: str | None = None
    model: str | None = None
    examples: int = 32

    EVERY: ClassVar[str] = "all"

    def every(self) -> bool:
        """Whether the case is "all"."""
        return self.case == self.EVERY

    def configured(self) -> "list[Method]":
        """The methods with their settings.

        Raises:
            UnknownNameError: no method or setting has this name.
            SettingsError: a method is named twice, or none of the methods has a direction.
        """
        from subcircuit.search import METHODS

        names = names_in(self.methods) or (list(METHODS) if self.every() else ["acdc"])
        if self.direction is None:
            return _configured(names, self.settings, self.seed)
        directed = [name for name, kind in METHODS.items() if "direction" in kind.__dataclass_fields__]
        if not set(directed) & set(names):
            raise SettingsError(
                f"--direction {self.direction} is an option of {' and '.join(directed)}, not of {', '.join(names)}: leave it out"
            )
        chosen = {f"{name}.direction": self.direction for name in names if name in directed}
        return _configured(names, {**chosen, **self.settings}, self.seed)

    def ablations(self) -> tuple[str, ...]:
        """The names of the ablations."""
        if self.ablation is not None:
            return (self.ablation,)
        return ("zero", "resample") if self.every() else ("resample",)


SPECS: dict[str, type[Spec]] = {
    "discover": DiscoverSpec,
    "refine": RefineSpec,
    "zoom": ZoomSpec,
    "stability": StabilitySpec,
    "sweep": SweepSpec,
    "validate": ValidateSpec,
}


def upgraded(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec from the options that a run of format 1 recorded."""
    flags = (*_OF_ACDC, "batch_size")
    left = {name: value for name, value in asked.items() if name not in ("out", "json", "config")}
    if asked.get("command") != "discover":
        return {name: value for name, value in left.items() if value is not None}
    own = {name: left.pop(name) for name in flags if name in left}
    # an omitted switch is not a setting
    given = {
        name: value for name, value in own.items() if value is not None and not (name == "coarse_to_fine" and value is False)
    }
    left["settings"] = {**given, **parse_settings(left.get("settings") or ())}
    return {name: value for name, value in left.items() if value is not None}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each name that has another value in ``after``."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"{name} was {_short(before.get(name))}, is {_short(after.get(name))}" for name in names]


def _configured(names: Sequence[str], settings: Mapping[str, Scalar], seed: int) -> "list[Method]":
    from subcircuit.search import method_with

    if len(set(names)) < len(names) or not names:
        raise SettingsError(f"--method {','.join(names)}: give at least one method, and each only once")
    own: dict[str, dict[str, Scalar]] = {name: {} for name in names}
    for name, value in settings.items():
        method, _, rest = name.partition(".")
        if method not in own:
            raise SettingsError(f"--set {name}={value}: expected METHOD.NAME=VALUE, with one of {', '.join(names)}")
        own[method][rest] = value
    return [method_with(name, own[name], seed) for name in names]


def _ranking(name: str) -> "By":
    from subcircuit.graph import ranking_named

    return ranking_named(name)


def _bos_policy(name: str) -> "BosPolicy":
    from subcircuit.tasks import bos_policy

    return bos_policy(name)


def _last_part(name: str | Path) -> str:
    is_path = isinstance(name, Path) or Path(name).expanduser().exists() or name.startswith((".", "~", "/"))
    return Path(name).resolve().name if is_path else str(name)


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
