import pytest

from subcircuit.engine import Mean, Resample
from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.truth import CASES, PLANTED, PROGRAMS, TRAINED, case, planted_case


def test_every_program_mechanism_and_trained_behaviour_can_be_asked_for():
    assert len(CASES) == len(PROGRAMS) + len(PLANTED) + len(TRAINED)
    assert all(listing.name == name and listing.description for name, listing in CASES.items())
    for name in PLANTED:
        assert case(name, Resample()).circuit == planted_case(name, Resample()).circuit


@pytest.mark.slow
def test_a_program_is_compiled_when_it_is_asked_for():
    made = case("tracr-count", Resample())
    assert made.name == "tracr-count"
    assert made.circuit.names == ["a0.h0->m0", "m0->logits", "token_embed->a0.h0<k>"]
    assert made.task.pairs[0].clean == "bos a a a a"


def test_unknown_cases_and_ablations_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'tracr-reverse'"):
        case("tracr-revers", Resample())
    with pytest.raises(SettingsError, match="not under mean"):
        case("induction", Mean())
