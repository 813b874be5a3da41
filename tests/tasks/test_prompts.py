import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.engine import writer_values
from subcircuit.errors import PromptError, PromptMismatchError, SettingsError, UnknownNameError
from subcircuit.graph import Graph
from subcircuit.model import Transformer, load_model
from subcircuit.tasks import Answer, PromptPair, Task, build_task, build_task_of_ids
from subcircuit.tasks.tokenizer import bos_prefix
from tests.tasks.conftest import tokenizer_of, with_tokenizer, words_of
from tests.tiny_models import bidirectional

WORDS = words_of("When _Mary _John _Anna _met _, , _gave _it _to _the _17 Mary the 17 42 to _a _b _猫 猫")
TOY = with_tokenizer(tokenizer_of(WORDS))
GOOD = PromptPair("When John met Mary, John gave it to", "When Anna met Mary, John gave it to", (" Mary",), (" John",))


def build(*pairs: PromptPair, model: Transformer = TOY, **options: Any) -> Task:
    return build_task("mine", pairs, model, parameters={}, **options)


def changed(**fields: Any) -> PromptPair:
    return PromptPair(**{**vars(GOOD), **fields})


def ids(text: str) -> list[int]:
    assert TOY.tokenizer is not None
    return TOY.tokenizer(text)["input_ids"]


def test_a_good_pair_becomes_tokens_and_answers():
    task = build(GOOD, PromptPair("the", "17", (" Mary", " Anna"), (" John",)))
    assert task.clean.ids[0].tolist() == ids(GOOD.clean or "")
    assert task.clean.lengths.tolist() == [9, 1]
    assert task.answers.pos.tolist() == [8, 0]
    assert task.answers.correct.tolist() == [[*ids(" Mary"), 0], [*ids(" Mary"), *ids(" Anna")]]
    assert task.answers.correct_mask.tolist() == [[True, False], [True, True]]
    assert task.answers.wrong.tolist() == [ids(" John")] * 2
    assert task.parameters == {"bos": "auto"}
    assert task.metric == "kl_divergence"


def test_prompts_of_unequal_length_are_named_with_the_place_where_they_part():
    message = r"pair 2: clean has 9 tokens, corrupted 12; they first differ at position 1 \(' John' / ' '\).*toy"
    with pytest.raises(PromptMismatchError, match=message):
        build(GOOD, changed(corrupted="When Zoe met Mary, John gave it to"))


def test_a_prompt_that_only_goes_on_parts_at_the_end():
    with pytest.raises(PromptMismatchError, match=r"pair 1: .* first differ at position 9 \(the end / ' the'\)"):
        build(changed(corrupted=f"{GOOD.clean} the"))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (changed(clean=""), "pair 2: the clean prompt is empty"),
        (changed(corrupted=""), "pair 2: the corrupted prompt is empty"),
        (changed(corrupted=GOOD.clean), "pair 2: clean and corrupted prompt are the same"),
        (changed(answers=()), "pair 2: no answer is given"),
        (changed(answers=("",)), "pair 2: an answer is empty"),
        (changed(answers=(" Mary", " Mary")), "pair 2: token ' Mary' is twice an answer"),
        (changed(answers=(" John",)), "pair 2: token ' John' is both a right and a wrong answer"),
        (changed(answers=(" Zoe",)), r"pair 2: answer ' Zoe' is 4 tokens \(' ' 'Z' 'o' 'e'\) in toy"),
        (changed(wrong_answers=(" Zoe",)), "pair 2: answer ' Zoe' is 4 tokens"),
        (changed(answers=("John",)), "pair 2: answer 'John' .* did you mean ' John' with a leading space"),
        (changed(answers=("Mary",)), "pair 2: answer 'Mary' .* did you mean ' Mary' with a leading space"),
        (changed(clean="a" * 65, corrupted="b" * 65), "pair 2: the prompts have 65 tokens, and toy reads at most 64"),
        (GOOD, "pair 1 and pair 2 are the same"),
    ],
)
def test_bad_pairs_are_refused_by_number(pair: PromptPair, message: str):
    with pytest.raises(PromptError, match=message):
        build(GOOD, pair)


def test_answers_need_no_space_where_none_is_written():
    assert build(PromptPair("the 17", "the to", ("42",))).answers.correct.tolist() == [ids("42")]
    assert build(PromptPair("猫", "17", ("猫",))).answers.correct.tolist() == [ids("猫")]


def test_after_a_trailing_space_the_answer_is_tokenised_alone():
    assert build(PromptPair("the to ", "the 17 ", ("Mary",))).answers.correct.tolist() == [ids("Mary")]


def test_text_needs_a_tokenizer():
    with pytest.raises(PromptError, match="toy has no tokenizer"):
        build(GOOD, model=with_tokenizer(None))


def test_the_way_to_a_tokenizer_is_one_that_the_model_has(tmp_path: Path):
    """Files can be put beside a checkpoint of one's own; not beside one that comes with the package, nor one in memory."""
    beside, python = "put the tokenizer's files", r"load_model\(…, tokenizer=…\)"
    memory = with_tokenizer(None)
    shipped = load_model("tiny-induction-ioi")
    for model, ways in ((memory, [python]), (replace(memory, folder=tmp_path), [beside, python]), (shipped, ["another model"])):
        with pytest.raises(PromptError, match="Use the task induction, whose prompts are token ids; or") as refused:
            build(GOOD, model=model)
        assert [way for way in (beside, python, "another model") if re.search(way, str(refused.value))] == ways


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
    small = with_tokenizer(tokenizer_of([]))
    with pytest.raises(PromptError, match=r"pair 1: token id \d+ is outside the vocabulary"):
        build(GOOD, model=Transformer(small.config, small.weights, TOY.tokenizer, "small"))


def test_no_pairs_and_unknown_metrics_are_refused():
    with pytest.raises(PromptError, match="at least 1"):
        build()
    with pytest.raises(UnknownNameError, match="logit_difference"):
        build(GOOD, metric="logit_diff")


@pytest.mark.parametrize(
    ("adds", "bos", "added"),
    [(False, "auto", 0), (True, "auto", 1), (False, "always", 1), (True, "always", 1), (False, "never", 0), (True, "never", 0)],
)
def test_prompts_begin_as_the_policy_says(adds: bool, bos: Any, added: int):
    task = build(GOOD, model=with_tokenizer(tokenizer_of(WORDS, adds_bos=adds)), bos=bos)
    assert task.clean.ids[0].tolist() == [0] * added + ids(GOOD.clean or "")
    assert task.answers.pos.tolist() == [8 + added]
    assert task.answers.correct.tolist() == [ids(" Mary")]
    assert task.parameters["bos"] == bos


@pytest.mark.parametrize(
    ("adds", "bos"), [(True, "auto"), (True, "always"), (False, "always"), (True, "never"), (False, "never")]
)
def test_text_that_spells_the_bos_token_out_is_refused_where_the_policy_decides(adds: bool, bos: Any):
    twice = changed(clean=f"<bos>{GOOD.clean}", corrupted=f"<bos>{GOOD.corrupted}")
    with pytest.raises(PromptError, match="already begins with '<bos>'"):
        build(twice, model=with_tokenizer(tokenizer_of(WORDS, adds_bos=adds)), bos=bos)


def test_a_chat_template_that_begins_with_bos_is_fine_where_nothing_is_added():
    task = build(changed(clean=f"<bos>{GOOD.clean}", corrupted=f"<bos>{GOOD.corrupted}"))
    assert task.clean.ids[0].tolist() == [0, *ids(GOOD.clean or "")]


def test_policies_that_the_tokenizer_cannot_follow_are_refused():
    bare = tokenizer_of(WORDS)
    bare.bos_token = None
    with pytest.raises(SettingsError, match="toy has no beginning-of-sequence token"):
        build(GOOD, model=with_tokenizer(bare), bos="always")
    with pytest.raises(UnknownNameError, match="auto, always, never"):
        bos_prefix(TOY.tokenizer, "sometimes", "toy")
    with pytest.raises(SettingsError, match="more than one token in front"):
        build(GOOD, model=with_tokenizer(tokenizer_of(WORDS, adds_bos=True, adds_eos=True)))


PROMPTS = [[3, 4, 5], [6, 7], [8, 9, 10, 11]]
OTHERS = [[3, 9, 5], [7, 7], [8, 9, 10, 12]]
SPOTS = [Answer(0, 2, (1,), (2,)), Answer(1, 0, (1, 2)), Answer(1, 1, (3,), (4, 5)), Answer(2, 3, (1,))]


def of_ids(**changes: Any) -> Task:
    given = {"clean": PROMPTS, "corrupted": OTHERS, "answers": SPOTS, "model": TOY, "parameters": {}} | changes
    return build_task_of_ids("ids", **given)


@pytest.mark.slow
@given(st.integers(0, 2), st.integers(1, 3))
def test_a_slice_is_the_task_of_those_examples(start: int, stop: int):
    if start >= stop:
        with pytest.raises(SettingsError, match="has 3 examples"):
            of_ids()[start:stop]
        return
    renumbered = [Answer(a.example - start, a.pos, a.correct, a.wrong) for a in SPOTS if start <= a.example < stop]
    part = of_ids(clean=PROMPTS[start:stop], corrupted=OTHERS[start:stop], answers=renumbered)
    sliced = of_ids()[start:stop]
    assert len(sliced) == stop - start
    assert sliced.digest == part.digest
    assert sliced.clean.ids.tolist() == part.clean.ids.tolist()


def test_slices_with_steps_are_refused():
    with pytest.raises(SettingsError, match="does not select consecutive examples"):
        of_ids()[::2]


@pytest.mark.parametrize(
    "other",
    [
        {"clean": [[3, 4, 6], *PROMPTS[1:]]},
        {"corrupted": [[3, 8, 5], *OTHERS[1:]]},
        {"answers": [Answer(0, 1, (1,), (2,)), *SPOTS[1:]]},
        {"answers": [Answer(0, 2, (2,), (1,)), *SPOTS[1:]]},
        {"answers": [Answer(0, 2, (1, 2)), *SPOTS[1:]]},
    ],
)
def test_the_digest_tells_tasks_apart(other: dict[str, Any]):
    assert of_ids().digest == of_ids(metric="accuracy", parameters={"a": 1}).digest != of_ids(**other).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupted": OTHERS[:2]}, "3 clean and 2 corrupted"),
        ({"corrupted": [[3, 9], *OTHERS[1:]]}, "pair 1: clean has 3 tokens, corrupted 2"),
        ({"clean": [[], *PROMPTS[1:]], "corrupted": [[], *OTHERS[1:]]}, "pair 1: the prompts are empty"),
        ({"clean": [*PROMPTS[:2], [8, 9, 10, 10**6]]}, "pair 3: token id 1000000 is outside"),
        ({"answers": SPOTS[:3]}, "at least one per prompt"),
        ({"answers": SPOTS[::-1]}, "order"),
        ({"answers": [*SPOTS[:3], Answer(2, 4, (1,))]}, "pair 3: an answer is read at position 4, and the prompt has 4"),
        ({"answers": [*SPOTS[:3], Answer(2, 3, ())]}, "pair 3: no answer"),
        ({"answers": [*SPOTS[:3], Answer(2, 3, (-1,))]}, "pair 3: answer token -1 is outside"),
    ],
)
def test_bad_ids_are_refused_by_number(changes: dict[str, Any], message: str):
    with pytest.raises(PromptError, match=message):
        of_ids(**changes)


def test_models_that_attend_both_ways_take_prompts_of_one_length():
    model = bidirectional()
    with pytest.raises(PromptError, match="pair 2 has 2 tokens, and pair 1 has 3"):
        of_ids(model=model)
    with pytest.raises(PromptError, match="prompts of 2 to 4 tokens cannot run in one batch"):
        model(of_ids().clean)
    with pytest.raises(PromptError, match="cannot run in one batch"):
        writer_values(model, Graph.of(model.config), of_ids().clean)
    last = [answer for answer in SPOTS if answer.example == 0]
    assert len(of_ids(model=model, clean=PROMPTS[:1], corrupted=OTHERS[:1], answers=last)) == 1
