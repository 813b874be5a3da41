"""Find the circuit with which a small language model tells who gets the drink, and look at its strongest edges.

Run: python examples/discover_ioi.py [number of prompts] [threshold]
"""

import sys

import subcircuit as sc


def strongest(circuit: sc.Circuit, count: int) -> list[tuple[float, str]]:
    """The kept edges whose cut changed the metric most."""
    assert circuit.scores is not None
    effects = [(float(circuit.scores[circuit.graph.find(edge)]), str(edge)) for edge in circuit.edges]
    return sorted(effects, reverse=True)[:count]


def main(examples: int, threshold: float) -> None:
    """Load, search, show, save."""
    model = sc.load_model("smollm2-135m")
    # prompts to search with, and others that judge what was found
    split = sc.load_split("ioi", model, examples=examples)
    print(split.search.pairs[0].clean, "…", split.search.pairs[0].answers)

    # heads with one input each: a coarser graph than the default, and a quicker search
    result = sc.discover(model, split, sc.Acdc(threshold), metric="logit_difference", scope=sc.Scope("head"))

    for name, value in sc.Summary.of(result.circuit).rows:
        print(f"{name:>22}  {value}")
    for effect, edge in strongest(result.circuit, 10):
        print(f"{effect:8.3f}  {edge}")
    print("written to", sc.write_run(result.circuit, sc.new_directory(None, split.search.name, model.name)))


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 8, float(given[1]) if len(given) > 1 else 0.1)
