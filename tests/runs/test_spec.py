"""Specs: they are what they store, runs of the first format read as specs, and misuse gets an error that says what to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import subcircuit as sc
from subcircuit.errors import SettingsError, SubcircuitError, UnknownNameError
from subcircuit.graph import Circuit, GraphShape
from subcircuit.graph.selection import Greedy, Threshold, TopN
from subcircuit.runs import DiscoverSpec, RefineSpec, Spec, StabilitySpec, SweepSpec, ValidateSpec, ZoomSpec
from subcircuit.runs.option_texts import parse_settings
from subcircuit.runs.spec import upgraded
from subcircuit.search.settings import settings_of

words = st.sampled_from(["acdc", "eap", "ioi", "a/b.jsonl", "α", ""])
optional = st.none() | words
scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | words
settings = st.dictionaries(words, scalars, max_size=3)
searches = st.builds(
    DiscoverSpec,
    model=words,
    task=words,
    examples=st.none() | st.integers(1, 9),
    method=words,
    metric=optional,
    settings=settings,
    target=st.dictionaries(st.sampled_from(["faithfulness", "kl"]), st.floats(0.1, 0.9)),
    threshold=st.none() | st.floats(0, 1),
    edges=optional,
    greedy=st.booleans(),
    workers=st.integers(1, 3),
)
others = st.one_of(
    st.builds(RefineSpec, path=st.just(Path("a")), settings=settings, task=optional),
    st.builds(ZoomSpec, path=st.just(Path("a")), component=words, into=words, threshold=st.none() | st.floats(0, 1)),
    st.builds(StabilitySpec, path=st.just(Path("a")), pairs=st.integers(1, 9), consensus=st.floats(0.5, 1)),
    st.builds(SweepSpec, model=words, task=words, methods=st.lists(words), settings=settings),
    st.builds(ValidateSpec, case=words, methods=st.lists(words), direction=optional),
)


@given(searches | others)
def test_a_spec_is_what_its_json_says(spec: Spec) -> None:
    again = Spec.parse(spec.model_dump(mode="json"))
    assert again == spec
    assert spec.differences(again) == []


@given(searches, st.sampled_from(["device", "workers", "ray"]))
def test_the_processes_and_the_device_bind_no_run(spec: DiscoverSpec, name: str) -> None:
    assert spec.differences(spec.changed(**{name: 2 if name == "workers" else "other"})) == []


def test_other_fields_bind_a_run() -> None:
    spec = DiscoverSpec(model="m", task="t")
    assert spec.differences(spec.changed(seed=3, settings={"steps": 2})) == [
        "settings was {}, is {'steps': 2}",
        "seed was 0, is 3",
    ]


@pytest.mark.parametrize(
    ("given_", "method"),
    [
        ({}, "refine"),
        ({"threshold": 0.1}, "acdc"),
        ({"settings": {"coarse_to_fine": True}}, "acdc"),
        ({"settings": ["speculation=4"]}, "acdc"),
        ({"target": {"edges": 20}}, "refine"),
        ({"method": "eap", "threshold": 0.1}, "eap"),
    ],
)
def test_a_search_without_a_method_refines_unless_it_has_what_only_acdc_has(given_: dict[str, Any], method: str) -> None:
    assert DiscoverSpec(model="m", task="t", **given_).method == method


def test_a_spec_searches_as_the_same_arguments_do() -> None:
    spec = DiscoverSpec(
        model="tiny-induction-ioi",
        task="induction",
        examples=4,
        method="eap-ig-inputs",
        settings={"steps": "3"},
        metric="logit_difference",
        edges="20",
        greedy=True,
        scope="head",
    )
    loaded = spec.load()
    found = sc.discover(loaded.problem, loaded.method, selection=loaded.selection)
    model = sc.load_model("tiny-induction-ioi")
    expected = sc.discover(
        model,
        sc.load_split("induction", model, examples=4),
        sc.EapIgInputs(steps=3),
        metric="logit_difference",
        scope="head",
        selection=sc.Greedy(20, "absolute"),
    )
    assert found.circuit.names == expected.circuit.names
    again = DiscoverSpec.of_circuit(expected.circuit)
    assert (again.configured(), again.selection(loaded.problem.graph)) == (loaded.method, loaded.selection)
    assert (again.resolved(), again.metric, again.examples) == (spec.resolved(), "logit_difference", 4)


@pytest.mark.parametrize(
    ("fields", "selection"),
    [
        ({}, TopN(2, "absolute")),
        ({"edges": "7"}, TopN(7, "absolute")),
        ({"edges": "10%", "by": "signed"}, TopN(26, "signed")),
        ({"edges": "7", "greedy": True}, Greedy(7, "absolute")),
        ({"threshold": 0.5, "by": "signed"}, Threshold(0.5, "signed")),
    ],
)
def test_edges_are_selected_as_asked(fields: dict[str, Any], selection: object) -> None:
    graph = sc.Graph(GraphShape(3, 4, 4), sc.Scope())
    assert graph.n_edges == 262
    assert DiscoverSpec(model="m", task="t", method="eap", **fields).selection(graph) == selection


@pytest.mark.parametrize(
    ("fields", "error", "words_"),
    [
        ({"task": "iio"}, UnknownNameError, "'ioi'"),
        ({"method": "acdcc"}, UnknownNameError, "'acdc'"),
        ({"metric": "logit_diference"}, UnknownNameError, "'logit_difference'"),
        ({"bos": "sometimes"}, UnknownNameError, "always"),
        ({"by": "size"}, UnknownNameError, "absolute"),
        ({"ablation": "zeros"}, UnknownNameError, "'zero'"),
        ({"scope": "heads"}, UnknownNameError, "head"),
        ({"method": "eap", "settings": {"speculation": 2}}, SettingsError, "acdc"),
        ({"method": "eap-ig-inputs", "settings": {"step": 2}}, UnknownNameError, "'steps'"),
        ({"method": "eap-ig-inputs", "settings": {"steps": "many"}}, SettingsError, "'many'"),
        ({"method": "eap", "target": {"kl": 0.5}}, SettingsError, "is an option of method refine"),
        ({"method": "eap", "threshold": 0.1, "edges": "5"}, SettingsError, "choose one of the two"),
        ({"method": "acdc", "threshold": 0.1, "edges": "5"}, SettingsError, "selects the edges itself"),
        ({"edges": "5"}, SettingsError, "--target edges=200"),
        ({"settings": {"optimal.steps": 3}}, SettingsError, "goes with --ablation optimal"),
    ],
)
def test_names_and_combinations_are_refused_before_anything_is_loaded(
    fields: dict[str, Any], error: type[SubcircuitError], words_: str
) -> None:
    spec = DiscoverSpec(**{"model": "no-such-model", "task": "ioi", **fields})
    with pytest.raises(error, match=words_):
        spec.check()


@pytest.mark.parametrize(
    "make",
    [
        lambda: DiscoverSpec(model=3, task="ioi"),  # pyright: ignore[reportArgumentType]
        lambda: DiscoverSpec(task="ioi"),  # pyright: ignore[reportCallIssue]
        lambda: DiscoverSpec(model="m", task="ioi", treshold=0.1),  # pyright: ignore[reportCallIssue]
        lambda: DiscoverSpec(model="m", task="ioi", target={"kl": "small"}),  # pyright: ignore[reportArgumentType]
        lambda: Spec.parse({"command": "rm"}),
        lambda: Spec.parse({"command": ["discover"]}),
        lambda: Spec.parse({"command": "sweep", "seed": [1]}),
        lambda: DiscoverSpec.of_circuit(Circuit.full(sc.Graph(GraphShape(1, 2, 2), sc.Scope()))),
        lambda: parse_settings(["steps"]),
    ],
)
def test_misuse_gets_an_error_of_ours(make: Any) -> None:
    with pytest.raises(SettingsError):
        make()


def test_a_setting_without_a_default_must_be_given() -> None:
    @dataclass(frozen=True)
    class Mine:
        share: float

    assert settings_of("method mine", Mine, {"share": "0.5"}) == Mine(0.5)
    with pytest.raises(SettingsError, match="method mine needs --share"):
        settings_of("method mine", Mine, {})


# as the first format recorded the options of each command
_FIRST: list[tuple[dict[str, Any], Spec]] = [
    (
        {
            "command": "discover",
            "model": "m",
            "task": "t",
            "examples": 4,
            "split": None,
            "seed": 0,
            "method": "acdc",
            "target": None,
            "metric": None,
            "ablation": "optimal",
            "scope": "qkv",
            "coarse_to_fine": False,
            "kv": "per_query_head",
            "split_embeddings": False,
            "bos": "auto",
            "device": None,
            "dtype": None,
            "revision": None,
            "out": None,
            "config": None,
            "json": False,
            "threshold": 0.1,
            "whole_input": False,
            "absolute": None,
            "head_order": None,
            "direction": None,
            "speculation": 8,
            "batch_size": None,
            "settings": ["optimal.steps=5"],
            "workers": 2,
            "ray": None,
            "edges": None,
            "greedy": False,
            "by": "absolute",
        },
        DiscoverSpec(
            model="m",
            task="t",
            examples=4,
            method="acdc",
            ablation="optimal",
            threshold=0.1,
            settings={"whole_input": False, "speculation": 8, "optimal.steps": 5},
            workers=2,
        ),
    ),
    (
        {"command": "refine", "path": "base", "target": ["kl=0.5", "edges=20"], "settings": None, "model": None, "json": True},
        RefineSpec(path=Path("base"), target={"kl": 0.5, "edges": 20}),
    ),
    (
        {"command": "zoom", "path": "base", "component": "a1", "into": "head", "threshold": None, "coarse_to_fine": False},
        ZoomSpec(path=Path("base"), component="a1", into="head"),
    ),
    (
        {"command": "sweep", "model": "m", "task": "t", "methods": ["eap,acdc"], "settings": ["acdc.threshold=1e-2"]},
        SweepSpec(model="m", task="t", methods=["eap,acdc"], settings={"acdc.threshold": 0.01}),
    ),
    ({"command": "validate", "case": "and-gate", "methods": None}, ValidateSpec(case="and-gate")),
]


@pytest.mark.parametrize(("asked", "spec"), _FIRST, ids=[spec.command for _, spec in _FIRST])
def test_runs_of_the_first_format_are_read(asked: dict[str, Any], spec: Spec) -> None:
    assert Spec.parse(upgraded(asked)) == spec
