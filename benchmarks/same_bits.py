"""What a change of the code must not change: circuits, scores and measured numbers of a fixed set of cases, recorded and compared.

    OMP_NUM_THREADS=1 python benchmarks/same_bits.py record before.pt              on the code before the change
    OMP_NUM_THREADS=1 python benchmarks/same_bits.py compare before.pt             on the code after it
    OMP_NUM_THREADS=1 python benchmarks/same_bits.py compare before.pt gemma2 /eap only cases whose names contain one of these
    OMP_NUM_THREADS=1 python benchmarks/same_bits.py record smollm2.pt smollm2     a real model, which is slow

Cases are named ``family/level/method``: a tiny random model of every family at several levels with every method; all levels, other
metrics, ablations and settings for three families; and numbers of random circuits (``measure``). Where a method refuses, the
refusal is the result. ``compare`` prints a line for each case that differs: edges gained and lost, or the largest difference of
an array as a share of its largest number. Its exit code is 1 if a circuit differs, or one side refuses and the other does not, and
0 for differences of numbers and messages alone. Bits depend on the processor, the version of torch and the number of threads, so
record and compare on one machine with one thread. The tiny cases take some five minutes.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor

import subcircuit as sc

Result: TypeAlias = dict[str, Any]  # names of edges as lists, arrays as tensors, numbers, texts

FAMILIES = (
    *("gpt2", "pythia", "neox_sequential", "llama", "llama_gqa", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe"),
    *("qwen3_moe", "gemma2", "gemma3", "attention_only", "attention_only_bare", "bidirectional"),
)
VARIED = ("gpt2", "qwen2_moe", "gemma2")
METHODS: dict[str, Any] = {
    "acdc": sc.Acdc(threshold=0.03),
    "refine": sc.Refine(seed_threshold=0.1, grow=5, rounds=2, path_examples=2),
    "exact": sc.Exact(),
    "hybrid": sc.Hybrid(coverage=0.6, most=20, sample=5, steps=2),
    "eap": sc.Eap(),
    "eap-ig-inputs": sc.EapIgInputs(steps=3),
    "eap-ig-activations": sc.EapIgActivations(steps=2),
    "clean-corrupted": sc.CleanCorrupted(),
    "relp": sc.Relp(),
    "atp-star": sc.AtpStar(),
    "ifr": sc.Ifr(),
    "hisp": sc.Hisp(),
    "subnetwork-probing": sc.SubnetworkProbing(steps=4),
    "edge-pruning": sc.EdgePruning(steps=4),
    "ugs": sc.Ugs(steps=4),
    "random": sc.RandomScores(),
}
SETTINGS: dict[str, Any] = {
    "acdc-absolute": sc.Acdc(threshold=0.03, absolute=True),
    "acdc-ascending": sc.Acdc(threshold=0.03, head_order="ascending"),
    "acdc-coarse-to-fine": sc.Acdc(threshold=0.03, coarse_to_fine=True),
    "acdc-edges-alone": sc.Acdc(threshold=0.03, whole_input=False),
    "acdc-denoising": sc.Acdc(threshold=0.03, direction="denoising"),
    "acdc-both": sc.Acdc(threshold=0.03, direction="both"),
    "exact-denoising": sc.Exact(direction="denoising"),
    "atp-star-signed": sc.AtpStar(grad_drop=False),
    "ugs-constants": sc.Ugs(steps=4, learn_constants=True),
}
ABLATIONS: dict[str, Any] = {
    "zero": "zero",
    "mean": "mean",
    "mean-by-position": "mean-by-position",
    "optimal": sc.LearnOptimal(steps=3),
}
METRICS = ("kl_divergence", "negative_log_likelihood", "match")
SHORT = ("acdc", "exact", "eap", "eap-ig-inputs", "relp", "edge-pruning", "ugs")
REFINED = ("block", "mixed", "roles", "neuron", "expert")  # refine is the slowest


@dataclass(frozen=True)
class Case:
    """One thing to work out."""

    name: str
    run: Callable[[], Result]

    def result(self) -> Result:
        """What comes out; of a refusal its class and message."""
        try:
            return self.run()
        except Exception as error:
            return {"error": type(error).__name__, "message": str(error)}


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"), nargs="?")
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("parts", nargs="*", help="parts of names of cases; all tiny cases by default")
    asked = parser.parse_args()
    if asked.file is None:
        parser.print_help()
        return 0
    return (record if asked.action == "record" else compare)(asked.file, asked.parts)


def record(file: Path, parts: list[str]) -> int:
    """Run cases and write their results, in between too."""
    began = written = perf_counter()
    results: dict[str, Result] = {}
    asked = [case for case in cases() if _is_asked(case.name, parts)]
    for case in asked:
        results[case.name] = case.result()
        if perf_counter() - written > 20 or case is asked[-1]:
            torch.save({"setting": _setting(), "results": results}, file)
            written = perf_counter()
    refused = sum("error" in result for result in results.values())
    print(f"{len(results)} cases, of which {refused} refused, in {perf_counter() - began:.0f} s: {file}")
    return 0


def compare(file: Path, parts: list[str]) -> int:
    """Run recorded cases again; 1 if a circuit differs."""
    recorded = torch.load(file)
    if recorded["setting"] != _setting():
        print(f"recorded with {recorded['setting']}, compared with {_setting()}: rounding may differ")
    before = {name: result for name, result in recorded["results"].items() if _is_asked(name, parts or [""])}
    known = {case.name: case for case in cases()}
    equal, rounded, broken = 0, 0, 0
    for name, result in before.items():
        differences = differences_of(result, known[name].result()) if name in known else ["CIRCUIT the case is gone"]
        if differences:
            print(f"{name}: {'; '.join(differences)}", flush=True)
        worst = any(difference.startswith("CIRCUIT") for difference in differences)
        equal, rounded, broken = equal + (not differences), rounded + (bool(differences) and not worst), broken + worst
    print(f"{len(before)} cases: {equal} bit-equal, {rounded} with other numbers or texts, {broken} with other circuits")
    return int(broken > 0)


def differences_of(before: Result, after: Result) -> list[str]:
    """A text for each entry that differs; those that begin with CIRCUIT must not be."""
    if ("error" in before) != ("error" in after):
        return [f"CIRCUIT was {_in_short(before)}, is {_in_short(after)}"]
    found = []
    for key in dict.fromkeys((*before, *after)):
        if key not in before or key not in after:
            lost = isinstance(before.get(key), list)
            found.append(f"{'CIRCUIT ' if lost else ''}{key} is {'new' if key in after else 'missing'}")
        elif text := _difference(before[key], after[key]):
            found.append(f"{'CIRCUIT ' if isinstance(before[key], list) else ''}{key} {text}")
    return found


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, list) and isinstance(after, list):
        lost, gained = sorted({*before} - {*after}), sorted({*after} - {*before})
        return f"lost {len(lost)} {lost[:3]}, gained {len(gained)} {gained[:3]}" if lost or gained else ""
    if isinstance(before, str) or before is None or isinstance(after, str) or after is None:
        return "" if before == after else f"was {before!r}, is {after!r}"
    a, b = torch.as_tensor(before), torch.as_tensor(after)
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"was {tuple(a.shape)} {a.dtype}, is {tuple(b.shape)} {b.dtype}"
    if torch.equal(_bits(a), _bits(b)):
        return ""
    if not torch.equal(a.isnan(), b.isnan()):
        return f"has NaN elsewhere: {int(a.isnan().sum())}, now {int(b.isnan().sum())}"
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    differing = f" in {int((a != b).sum())} of {a.numel()}" if a.numel() > 1 else f", {float(a):.6g}, now {float(b):.6g}"
    return f"differs by {float((a - b).abs().max() / a.abs().max().clamp(min=1e-300)):.2g}{differing}"


def _bits(x: Tensor) -> Tensor:
    # one NaN is as good as another
    x = x.contiguous().masked_fill(x.isnan(), float("nan")) if x.is_floating_point() else x.contiguous()
    return x.reshape(-1).view(torch.uint8)


def _in_short(result: Result) -> str:
    return f"{result['error']}: {result['message'][:120]}" if "error" in result else "a result"


def _is_asked(name: str, parts: list[str]) -> bool:
    if name.startswith("smollm2") and not any(part == "" or part.startswith("smollm2") for part in parts):
        return False
    return not parts or any(part in name for part in parts)


def _setting() -> dict[str, Any]:
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}


def cases() -> Iterator[Case]:
    """All of them; none is run."""
    for index, family in enumerate(FAMILIES):
        found = levels(family)
        if family not in VARIED:
            # families differ in their layers, which a few levels reach
            chosen = ("block", "grouped" if "grouped" in found else "qkv", "mixed", ("roles", "each")[index % 2])
            found = {level: found[level] for level in chosen}
        for level in found:
            yield Case(f"{family}/{level}/measure", partial(_measured, family, level))
            for name, method in METHODS.items():
                if name != "refine" or level in REFINED:
                    yield Case(f"{family}/{level}/{name}", partial(_found, family, level, method))
    for family in VARIED:
        yield from _variations(family)
    for name in ("acdc", "eap", "relp"):
        yield Case(f"smollm2/{name}", partial(_real, name))


def _variations(family: str) -> Iterator[Case]:
    """Other settings, ablations and metrics, and searches within a block."""
    for name, method in SETTINGS.items():
        yield Case(f"{family}/mixed/{name}", partial(_found, family, "mixed", method))
    for name in SHORT:
        for ablation in ABLATIONS:
            yield Case(f"{family}/qkv/{name}/{ablation}", partial(_found, family, "qkv", METHODS[name], ablation=ablation))
        for metric in METRICS:
            # probabilities and divergences are small beside logits
            method = sc.Acdc(threshold=0.003) if name == "acdc" else METHODS[name]
            yield Case(f"{family}/head/{name}/{metric}", partial(_found, family, "head", method, metric=metric))
    yield Case(f"{family}/qkv/refine/mean", partial(_found, family, "qkv", METHODS["refine"], ablation="mean"))
    for component, into in (
        ("a1", "head"),
        ("a1", "qkv"),
        ("a2", "positions"),
        ("m0", "expert" if "moe" in family else "neuron"),
    ):
        yield Case(f"{family}/block/zoom/{component}={into}", partial(_zoomed, family, component, into))
    yield Case(f"{family}/neuron-scores", partial(_neurons, family))


def levels(family: str) -> dict[str, str]:
    """The levels at which a family is searched: their names here, and as scopes."""
    config = _model(family, False).config
    mixture, mlp = config.experts is not None, bool(config.d_mlp) or config.experts is not None
    found = {"block": "block", "head": "head", "qkv": "qkv"}
    found |= {"expert": "expert", "mixed": "expert, a0=head, a1=block"} if mixture else {}
    found |= {"neuron": "neuron"} if mlp and not mixture else {}
    found |= {"mixed": f"head, a1=block{', m0=neuron' if mlp else ''}, a0.h1=qkv"} if not mixture else {}
    found |= {"grouped": "qkv, kv=grouped"} if config.n_kv_heads < config.n_heads else {}
    found |= {"split": "qkv, embeddings=split"} if config.learned_positions else {}
    return found | {"roles": f"{found['mixed']}, positions=roles", "each": "qkv, positions=each"}


def _found(family: str, level: str, method: Any, metric: str = "logit_difference", ablation: str = "resample") -> Result:
    model, task, scope = _problem(family, level)
    carried = ABLATIONS.get(ablation, ablation)
    # many edges, so that some lie on paths to the logits with methods that score at random
    wanted = None if isinstance(method, sc.Acdc | sc.Refine) else sc.graph_of(model, scope, task).n_edges // 2
    return _of_discovery(sc.discover(model, task, method, metric=metric, ablation=carried, scope=scope, selection=wanted))


def _of_discovery(found: sc.Discovery) -> Result:
    """The circuit, its scores, and all numbers but times."""
    numbers = {**vars(found), **found.notes}
    result: Result = {"edges": found.circuit.names, "scores": found.circuit.scores, "constants": found.circuit.constants}
    result |= {
        key: value for key, value in numbers.items() if isinstance(value, int | float | None) and not key.endswith("seconds")
    }
    if found.path is not None:
        for index, point in enumerate(found.path.points):
            result[f"edges after round {index}"] = sc.Circuit(found.path.graph, point.kept).names
            result[f"loss after round {index}"] = point.search.loss
    for name in ("path", "ranked"):
        result.pop(name, None)
    return result


def _measured(family: str, level: str) -> Result:
    """Losses of random circuits, each example's, and the numbers of an evaluation of one of them."""
    model, task, scope = _problem(family, level)
    result: Result = {}
    for metric, ablation in (("logit_difference", "resample"), ("kl_divergence", "mean")):
        problem = sc.Problem.of(model, task, metric, ablation, scope)
        graph = problem.graph
        shares = (graph.n_edges // 2, graph.n_edges * 9 // 10)
        circuits = [sc.random_circuit(graph, n, seed) for seed, n in enumerate(shares)]
        circuits.append(sc.random_connected_circuit(graph, graph.n_edges // 5))
        readings = sc.measure(problem, circuits, batch_size=2)
        result |= {f"{metric} {key}": getattr(readings, key) for key in ("model", "empty", "circuits")}
        result |= {f"{metric} {key}": value for key, value in sc.evaluate_circuit(problem, circuits[-1]).means.items()}
    return result | {"edges": circuits[-1].names}


def _zoomed(family: str, component: str, into: str) -> Result:
    """What is inside one of the model's blocks."""
    model, task, scope = _problem(family, "block", small=into == "neuron")
    problem = sc.Problem.of(model, task, "logit_difference", "resample", scope)
    return _of_discovery(sc.look_inside(problem, sc.Circuit.full(problem.graph), component, into, METHODS["acdc"]))


def _neurons(family: str) -> Result:
    model, task, scope = _problem(family, "head")
    problem = sc.Problem.of(model, task, "logit_difference", None, scope)
    return {"scores": sc.neuron_scores(problem, METHODS["eap"]).values}


def _real(name: str) -> Result:
    model = sc.load_model("smollm2-135m")
    task = sc.load_task("ioi", model, examples=8)
    method = sc.Acdc(threshold=0.1) if name == "acdc" else METHODS[name]
    return _of_discovery(sc.discover(model, task, method, metric="logit_difference"))


def _problem(family: str, level: str, small: bool = False) -> tuple[sc.Transformer, sc.Task, str]:
    """The model, prompts for this level and the scope."""
    scope = levels(family)[level]
    model = _model(family, small or "neuron" in scope)
    # prompts of one length, where each position is a node or positions see those after them
    lengths = (4, 4, 4) if level in ("roles", "each") else (7, 7, 7) if family == "bidirectional" or small else (6, 8, 7)
    return model, _task(family, model, lengths), scope


@cache
def _model(family: str, few_neurons: bool) -> sc.Transformer:
    """A tiny random model of the tests, with few neurons where each is a node."""
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)
    from tests.tiny_models import narrow, tiny

    return narrow(tiny(family)) if few_neurons else tiny(family)


def _task(family: str, model: sc.Transformer, lengths: tuple[int, ...]) -> sc.Task:
    """Pairs of random prompts whose first tokens agree; answers at the last token, roles at the first three."""
    draw, vocabulary = random.Random(f"{family} {lengths}"), model.config.vocab
    clean, corrupted, answers = [], [], []
    for example, length in enumerate(lengths):
        prompt = [draw.randrange(2, vocabulary) for _ in range(length)]
        first = draw.randrange(1, length - 1)
        corrupted.append([*prompt[:first], *((token - 1) % (vocabulary - 2) + 2 for token in prompt[first:])])
        clean.append(prompt)
        right, *wrong = draw.sample(range(vocabulary), 3)
        answers.append(sc.Answer(example, length - 1, (right,), tuple(wrong)))
    roles = [{"IO": [example % 2], "S": [1 - example % 2, 2]} for example in range(len(lengths))]
    return sc.build_task_of_ids("random", clean, corrupted, answers, model, parameters={}, roles=roles)


if __name__ == "__main__":
    sys.exit(main())
