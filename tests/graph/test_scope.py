"""Scopes as text: what is printed is read back, and what is not understood is pointed at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.errors import GraphError, SubcircuitError, UnknownNameError
from subcircuit.graph import LEVELS, Scope, parse_scope
from subcircuit.graph.scope import print_scope
from tests.graph.strategies import scopes


@pytest.mark.slow
@given(scopes())
def test_what_is_printed_is_read_back(scope: Scope) -> None:
    assert parse_scope(str(scope)) == scope
    assert parse_scope(str(scope).replace(" ", "")) == scope


@given(scopes())
def test_components_are_at_the_level_that_was_said_last(scope: Scope) -> None:
    said = dict(scope.overrides)
    for layer in range(12):
        holds = said.get(f"a{layer}", "qkv" if scope.level == "neuron" else scope.level)
        assert scope.of_head(layer, 1) == said.get(f"a{layer}.h1", holds)
        assert scope.of_mlp(layer) == said.get(f"m{layer}", "neuron" if scope.level == "neuron" else "block")
    again = Scope(scope.level, scope.kv, scope.split_embeddings, (*scope.overrides, ("a3", "head"), ("m4", "neuron")))
    assert (again.of_head(3, 1), again.of_mlp(4)) == ("head", "neuron")


@given(st.text(alphabet="qkvblockheadneurom=,-. 0123456789am", max_size=24) | st.text(max_size=16))
def test_what_is_no_scope_is_refused_as_the_user_s_mistake(text: str) -> None:
    try:
        scope = parse_scope(text)
    except SubcircuitError as error:
        message, shown, mark = str(error).rsplit("\n", 2) if "\n" not in text else (str(error), "", "^")
        assert (message and mark.strip() == "^" and len(mark) <= len(shown) + 1) or "\n" in text
    else:
        assert parse_scope(print_scope(scope)) == scope


@pytest.mark.parametrize(
    ("text", "kind", "message", "marked"),
    [
        ("qkv, m5=neuro, a9=block", UnknownNameError, "'neuron'", "neuro"),
        ("qvk", UnknownNameError, "'qkv'", "qvk"),
        ("head, qkv", GraphError, "two levels", "qkv"),
        ("qkv,, m5=neuron", GraphError, "empty item", ", m5"),
        ("m5=qkv", UnknownNameError, "block, neuron", "qkv"),
        ("qkv, x9=head", GraphError, "not a component", "x9"),
        ("a3-m5=head", GraphError, "not a range", "a3"),
        ("a7-a3=head", GraphError, "the lower layer first", "a7"),
        ("a5-b7=head", GraphError, "not a component", "b7"),
        ("kv=groupd", UnknownNameError, "'grouped'", "groupd"),
        ("a9=block, a9.h3=qkv", GraphError, "a9 is one node", "a9.h3"),
        ("block, a9.h3=qkv", GraphError, "a9=head first", "a9.h3"),
    ],
)
def test_errors_point_at_the_place(text: str, kind: type[Exception], message: str, marked: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        parse_scope(text)
    _, shown, mark = str(caught.value).rsplit("\n", 2)
    assert shown == f"  {text}"
    assert shown[mark.index("^") :].startswith(marked)


def test_every_level_is_a_scope_of_its_own() -> None:
    assert [str(Scope.named(level)) for level in LEVELS] == list(LEVELS)
    assert Scope.named("qkv, embeddings=split, kv=grouped") == Scope("qkv", "grouped", True)
