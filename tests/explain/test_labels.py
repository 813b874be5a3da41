"""Labels, on circuits that are known: by construction, and of a small trained model."""

from dataclasses import replace
from itertools import permutations

import pytest

from subcircuit.engine import Resample, Zero
from subcircuit.explain import Explanation, Thresholds, explain_circuit
from subcircuit.graph import Circuit, Graph
from subcircuit.tasks import Answer, build_task_of_ids
from subcircuit.truth import Case
from subcircuit.truth.planted import SHARP, FeatureStream, Head, planted_case
from subcircuit.truth.trained import trained_case

PLANTED = {
    "induction": {"a0.h0": "previous token", "a1.h0": "induction"},
    "inhibition": {"a0.h0": "duplicate token", "a1.h0": "S-inhibition", "a2.h0": "name mover"},
    "negative": {"a0.h0": "mover", "a1.h0": "negative mover"},
    # heads that see one token each; nothing in them is a known mechanism, and the MLP decides
    "or-gate": {"a0.h0": "unclear", "a0.h1": "unclear", "m0": "writes the answer"},
}


def labels(explanation: Explanation) -> dict[str, str]:
    return {name: one.label for name, one in explanation.components.items() if name not in ("embed", "logits")}


@pytest.fixture(scope="module")
def induction() -> tuple[Case, Explanation]:
    case = trained_case("trained-induction", Resample())
    return case, explain_circuit(case.model, case.circuit, case.task)


STREAM = FeatureStream({"token": 4, "pos": 4, "one": 1, "bos": 1, "end": 1, "out": 4, "idle": 4})


def looking(place: int) -> list:
    """Attend from the end to a place."""
    return [(SHARP * STREAM.direction("pos", 3), STREAM.direction("pos", place))]


def labels_of(layers: list[list[Head]], right: int, circuit: list[str]) -> dict[str, str]:
    """Labels in a model of prompts of two tokens, one of which is the right answer and the other the wrong one."""
    markers = [STREAM.direction(name) + STREAM.direction("one") for name in ("bos", "end")]
    model = STREAM.model("by-hand", [*(STREAM.direction("token", i) for i in range(4)), *markers], layers)
    prompts = [(4, *two, 5) for two in permutations(range(4), 2)]
    roles = [{"RIGHT": (right,), "WRONG": (3 - right,)}] * len(prompts)
    answers = [Answer(i, 3, (p[right],), (p[3 - right],)) for i, p in enumerate(prompts)]
    counterparts = [*prompts[5:], *prompts[:5]]
    task = build_task_of_ids(
        "by-hand", prompts, counterparts, answers, model, parameters={}, metric="logit_difference", roles=roles
    )
    return labels(explain_circuit(model, Circuit.of_edges(Graph.of(model.config), circuit), task))


def test_a_head_that_lowers_the_wrong_token_suppresses_copies():
    lowers = looking(1), STREAM.carry("token", "out", gain=-1.0)
    assert labels_of([[lowers]], 2, ["embed->a0.h0<v>", "a0.h0->logits"]) == {"a0.h0": "copy suppression"}


@pytest.mark.parametrize(("reacts", "label"), [(True, "backup mover"), (False, "rests")])
def test_a_head_that_moves_when_the_mover_fails_is_its_backup(reacts: bool, label: str):
    mover = looking(1), STREAM.carry("token", "out")
    # a token that has been written already repels twice what its place draws; the other draws to the first place alone
    shy = STREAM.match("out", "token", strength=-2 * SHARP)
    backup = shy + (looking(1) if reacts else looking(0)), STREAM.carry("token", "out")
    circuit = ["embed->a0.h0<v>", "a0.h0->logits", "a0.h0->a1.h0<q>", "embed->a1.h0<v>", "a1.h0->logits"]
    assert labels_of([[mover], [backup]], 1, circuit) == {"a0.h0": "mover", "a1.h0": label}


@pytest.mark.parametrize(("place", "label"), [(0, "rests"), (1, "mover")])
def test_a_head_that_looks_at_the_first_token_rests(place: int, label: str):
    head = looking(place), STREAM.carry("token", "out")
    assert labels_of([[head]], 1, ["embed->a0.h0<v>", "a0.h0->logits"]) == {"a0.h0": label}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_heads_are_what_they_were_made_for(name: str):
    case = planted_case(name, Zero())
    explanation = explain_circuit(case.model, case.circuit, case.task)
    assert labels(explanation) == PLANTED[name]
    assert list(explanation.components) == ["embed", *PLANTED[name], "logits"]


def test_the_planted_chain_is_told_by_its_edges():
    case = planted_case("inhibition", Zero())
    explained = explain_circuit(case.model, case.circuit, case.task).components
    assert [(route.node, route.composition) for route in explained["a0.h0"].feeds] == [("a1.h0", "V")]
    assert [(route.node, route.composition) for route in explained["a1.h0"].feeds] == [("a2.h0", "Q")]
    assert {(route.node, route.composition) for route in explained["a2.h0"].reads} >= {("a1.h0", "Q"), ("embed", "V")}
    assert [one.acts_at for one in explained.values()][1:4] == ["S2", "END", "END"]


def test_labels_do_not_depend_on_where_heads_stand():
    """The same chain, its model's heads in the other order."""
    case = planted_case("inhibition", Zero())
    layers = []
    for layer in case.model.weights.layers:
        a = layer.attention
        flipped = replace(a, W_Q=a.W_Q.flip(0), W_K=a.W_K.flip(0), W_V=a.W_V.flip(0), W_O=a.W_O.flip(0))
        layers.append(replace(layer, attention=flipped))
    model = replace(case.model, weights=replace(case.model.weights, layers=tuple(layers)))
    circuit = type(case.circuit).of_edges(case.circuit.graph, [name.replace("h0", "h1") for name in case.circuit.names])
    found = labels(explain_circuit(model, circuit, case.task))
    assert found == {name.replace("h0", "h1"): label for name, label in PLANTED["inhibition"].items()}


@pytest.mark.slow
def test_induction_heads_of_the_trained_model_are_found(induction: tuple[Case, Explanation]):
    case, explanation = induction
    found = labels(explanation)
    # what writes to the logits by induction: the heads of the last layer, whose keys a previous-token head feeds
    writing = {str(edge.writer) for edge in case.circuit.edges if str(edge.reader) == "logits"} - {"m2", "m1", "m0"}
    assert writing == {f"a2.h{head}" for head in range(4)}
    assert all(found[name] == "induction" for name in writing)
    assert "previous token" in {found.get(str(edge.writer)) for edge in case.circuit.edges if str(edge.reader).startswith("a1")}
    for name in writing:
        head = explanation.components[name].head
        assert head is not None and head.random is not None
        assert (head.random["after same"] or 0) > 0.8 and head.copies > 0.8 and head.ov_copying > 0.8


@pytest.mark.slow
def test_nothing_is_labelled_when_thresholds_cannot_be_met(induction: tuple[Case, Explanation]):
    case, _ = induction
    never = Thresholds(attends=9.0, pattern=9.0, copies=9.0, direct=9.0, rests=9.0, reads=9.0, backup=9.0)
    assert set(labels(explain_circuit(case.model, case.circuit, case.task, never)).values()) == {"unclear"}


@pytest.mark.slow
def test_movers_of_the_trained_model_write_the_right_name():
    case = trained_case("trained-ioi", Resample())
    explained = explain_circuit(case.model, case.circuit, case.task).components
    # the last head reads, at "gave", the name that stands before it: the giver, which it tells the end to leave out
    assert explained["a0.h2"].label == "previous token" and explained["a0.h2"].acts_at == "S2+1"
    reader = explained["a1.h3"]
    assert reader.acts_at == "END" and reader.head is not None
    assert reader.head.attention["END"]["S2+1"] > 0.9
