# pyright: reportOptionalMemberAccess=false
"""``subcircuit refine``, ``discover --target`` and ``show --edges``."""

import csv
import json
import shutil

import pytest

from subcircuit.cli.main import main
from subcircuit.graph import Circuit, load_path
from tests.cli.conftest import written


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """A folder with the prompts, a circuit found by plain ACDC and one refined from it."""
    folder = tmp_path_factory.mktemp("refined")
    many, seed, fine = (str(folder / name) for name in ("many.jsonl", "seed", "fine"))
    written(folder / "many.jsonl", range(10, 22), 12)
    search = ["discover", "-m", model, "-t", many, "--threshold", "0.05", "--metric", "logit_difference", "--out", seed]
    assert main(search) == 0
    assert main(["refine", seed, "-m", model, "-t", many, "--target", "kl=0.2", "--out", fine]) == 0
    return folder


@pytest.fixture
def found(made, subcircuit, tmp_path):
    """What was made, in the working directory; the path of the circuit found by plain ACDC."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "seed"


@pytest.mark.slow
def test_a_finished_circuit_is_refined_to_its_target(found, tmp_path):
    seed, fine = Circuit.load(found), Circuit.load(tmp_path / "fine")
    assert fine.record.method.name == "refine"
    assert fine.record.method.parameters["seed"] == f"acdc, {seed.n_edges:,} edges"
    assert fine.record.task.split == seed.record.task.split
    path = load_path(tmp_path / "fine", fine.graph)
    assert path.points[0].action == "seed"
    assert path.points[0].n_edges == seed.prune().n_edges
    chosen = [point for point in path.points if point.kept.equal(fine.kept)]
    assert chosen[0].validation.kl <= 0.2
    rows = list(csv.DictReader((tmp_path / "fine" / "path.csv").open()))
    assert [int(row["edges"]) for row in rows] == [point.n_edges for point in path.points]
    assert (tmp_path / "fine" / "path.svg").is_file()


@pytest.mark.slow
def test_prompts_of_a_file_are_found_again_all_parts_of_them(subcircuit, model, found, tmp_path):
    out = subcircuit("refine", found, "-m", model, "--target", "kl=0.05", "--out", "again")
    assert out.code == 0, out.err
    assert "no validation prompts" not in out.err
    path = load_path(tmp_path / "again", Circuit.load(tmp_path / "again").graph)
    assert all(point.validation is not None for point in path.points)


@pytest.mark.slow
def test_with_a_target_discover_refines_and_without_one_it_is_acdc(subcircuit, model, many):
    refined = subcircuit(
        "discover",
        "-m",
        model,
        "-t",
        many,
        "--metric",
        "logit_difference",
        "--target",
        "kl=0.05",
        "--target",
        "edges=60",
        "--json",
    )
    assert refined.code == 0, refined.err
    assert refined.json["method"] == "refine"
    assert refined.json["parameters"]["kl"] == 0.05
    assert refined.json["edges_kept"] <= 60
    plain = subcircuit("discover", "-m", model, "-t", many, "--threshold", "0.05", "--json")
    assert plain.json["method"] == "acdc"


@pytest.mark.slow
def test_a_size_is_taken_from_the_path(subcircuit, found, tmp_path):
    path = load_path(tmp_path / "fine", Circuit.load(tmp_path / "fine").graph)
    sizes = sorted({point.n_edges for point in path.points})
    shown = subcircuit("show", "fine", "--edges", sizes[-1], "--out", "other", "--json")
    assert shown.json["edges"] <= sizes[-1]
    assert Circuit.load(tmp_path / "other").n_edges == shown.json["edges"]
    beyond = subcircuit("show", "fine", "--edges", sizes[-1] + 1)
    assert beyond.code == 2
    assert f"{sizes[-1]:,}" in beyond.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--target", "faithfulness"), "expected faithfulness=0.95"),
        (("--target", "kl=low"), "not a number"),
        (("--target", "kl=-1"), "above 0"),
        (("--target", "faithfulness=1.5"), "between 0 and 1"),
        (("--target", "edges=0"), "at least 1"),
        (("--target", "size=3"), "expected faithfulness=0.95"),
        (("--target", "kl=0.5", "--method", "eap"), "is an option of method refine"),
        (("--edges", "20", "--method", "refine"), "--target edges="),
    ],
)
def test_targets_that_make_no_sense_are_refused_before_anything_is_loaded(subcircuit, arguments, expected):
    out = subcircuit("discover", "-m", "no-such-model", "-t", "ioi", *arguments)
    assert out.code == 2
    assert expected in out.err
    assert "loading" not in out.err


@pytest.mark.slow
def test_a_path_that_is_damaged_is_named(subcircuit, found, tmp_path):
    file = tmp_path / "fine" / "path.json"
    content = json.loads(file.read_text())
    content["rounds"][0]["added"].append(content["rounds"][0]["added"][0])
    file.write_text(json.dumps(content))
    out = subcircuit("show", "fine", "--edges", "5")
    assert out.code == 2
    assert "path.json" in out.err
    without = subcircuit("show", found, "--edges", "5")
    assert "there is no refinement path here" in without.err


@pytest.mark.slow
def test_prompts_of_another_task_are_refused(subcircuit, model, found, tmp_path):
    other = written(tmp_path / "other.jsonl", range(30, 42), 9)
    out = subcircuit("refine", found, "-m", model, "-t", other, "--out", "of-other")
    assert out.code == 2 or "cannot be reproduced" in out.err
