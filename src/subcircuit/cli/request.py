"""What ``discover`` is asked for: its options understood, and then the model, prompts and graph that they mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subcircuit.cli.options import Chosen
    from subcircuit.graph import Scope, Selection
    from subcircuit.search import LearnOptimal, Problem
    from subcircuit.tasks import BosPolicy, Split


@dataclass(frozen=True)
class Loaded:
    """What a search is given.

    Args:
        split: all prompts.
        problem: with the prompts to search with; where the constants of its ablation have to be learned, means stand in for them.
        selection: which scored edges make the circuit; None for methods that decide themselves.
    """

    split: "Split"
    problem: "Problem"
    selection: "Selection | None"


@dataclass(frozen=True)
class Request:
    """Options that go together, as far as that can be told before anything is loaded.

    Args:
        options: as they were given.
        config: the method's settings.
        ablation: its name, or how its constants are learned.
        chosen: which scored edges make the circuit; None for methods that decide themselves.
    """

    options: SimpleNamespace
    config: Any
    ablation: "str | LearnOptimal"
    chosen: "Chosen | None"
    scope: "Scope"
    bos: "BosPolicy"

    def load(self, say: Callable[[str], None]) -> Loaded:
        """Load model and prompts.

        Args:
            say: told what takes long.

        Raises:
            SubcircuitError: they cannot be had, or the options do not go with them.
        """
        from subcircuit.engine import Mean
        from subcircuit.graph.selection import check_selection
        from subcircuit.model import load_model
        from subcircuit.search import Problem
        from subcircuit.tasks import load_split

        o = self.options
        say(f"loading {o.model}")
        model = load_model(o.model, revision=o.revision, device=o.device, dtype=o.dtype, report=say)
        split = load_split(o.task, model, examples=o.examples, seed=o.seed, bos=self.bos, split=o.split).to(model.device)
        problem = Problem.of(model, split, o.metric, self.ablation if isinstance(self.ablation, str) else Mean(), self.scope)
        selection = None if self.chosen is None else self.chosen.selection(problem.graph)
        if selection is not None:
            check_selection(problem.graph, selection)
        self.config.check(problem)
        return Loaded(split, problem, selection)


def told_of(split: "Split") -> list[str]:
    """What is said of the prompts beside those of the search."""
    parts = split.parts
    if "test" not in parts:
        return [
            "warning: nothing is left to judge with: the split has no test prompts, and a circuit does better on the prompts "
            "that it was found with than on others"
        ]
    chosen = f", {len(parts['validation'])} to choose by" if "validation" in parts else ""
    return [f"set apart: {len(parts['test'])} pairs of prompts to judge with{chosen}"]


# options that only a search by thresholds has
_OF_ACDC = ("threshold", "coarse_to_fine", "whole_input", "absolute", "head_order", "direction", "speculation")


def with_method(asked: dict[str, Any]) -> dict[str, Any]:
    """The options with the method that they mean: plain ACDC where one of its own is given, otherwise a refinement."""
    if asked.get("method") is not None:
        return asked
    plain = not asked.get("target") and any(asked.get(name) not in (None, False) for name in _OF_ACDC)
    return {**asked, "method": "acdc" if plain else "refine"}


def targets(given: Sequence[str] | None) -> dict[str, Any]:
    """``--target`` as settings of a refinement.

    Raises:
        SettingsError: no ``name=value`` of a target, or one that is given twice.
    """
    from subcircuit.errors import SettingsError

    found: dict[str, Any] = {}
    for text in given or ():
        name, is_there, value = text.partition("=")
        if name not in ("faithfulness", "kl", "edges") or not is_there or name in found:
            raise SettingsError(f"--target {text}: expected faithfulness=0.95, kl=0.5 or edges=200, each once")
        try:
            found[name] = int(value) if name == "edges" else float(value)
        except ValueError:
            raise SettingsError(f"--target {text}: {value!r} is no number") from None
    return found


def understood(o: SimpleNamespace) -> Request:
    """The options of ``discover``.

    Raises:
        SubcircuitError: one of them is not understood, or they do not go together.
    """
    from subcircuit.cli.options import Chosen, ablation_asked, bos_policy, configured, split_settings
    from subcircuit.errors import SettingsError
    from subcircuit.graph import Scope
    from subcircuit.search import method_named
    from subcircuit.search.direction import check_start
    from subcircuit.tasks import check_task, parse_shares
    from subcircuit.tasks import metric as metric_named

    check_task(o.task)
    if o.split is not None:
        parse_shares(o.split)
    ranks = method_named(o.method).ranks
    if o.target and o.method != "refine":
        raise SettingsError(f"--target goes with method refine, not with {o.method}: leave out --method or --target")
    if not ranks and (o.edges is not None or o.greedy or o.by != "absolute"):
        way_out = ": ask for a size with --target edges=200" if o.method == "refine" else ""
        raise SettingsError(f"method {o.method} decides itself which edges to keep: it has no --edges, --greedy or --by{way_out}")
    given = {
        name: getattr(o, name) for name in ("whole_input", "absolute", "head_order", "direction", "speculation", "batch_size")
    }
    given |= {"coarse_to_fine": o.coarse_to_fine or None} | ({} if ranks else {"threshold": o.threshold})
    given |= targets(o.target)
    own, learning = split_settings(o.settings or ())
    config, carried = configured(o.method, given, own, o.seed), ablation_asked(o.ablation, learning, o.seed)
    check_start(o.ablation, getattr(config, "direction", "noising"))
    chosen = Chosen(o.edges, o.threshold, o.greedy, o.by) if ranks else None
    scope, policy = Scope.named(o.scope, o.kv, o.split_embeddings), bos_policy(o.bos)
    if o.metric is not None:
        metric_named(o.metric)
    return Request(o, config, carried, chosen, scope, policy)
