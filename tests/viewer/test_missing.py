"""What the page says where a circuit's prompts or model are not here: the same as the commands, and no error of its own."""

from playwright.sync_api import expect

from subcircuit.errors import PromptError
from subcircuit.report.page import Shown
from subcircuit.search import Problem
from tests.viewer.conftest import Sample, Watched, serving

WHY = "run was found on the prompts of leak.jsonl, which is not near the run or the working directory: give --task PATH"


def test_prompts_that_are_not_here_are_asked_for_on_the_page(sample: Sample, watched: Watched) -> None:
    def probe(number: int, shown: Shown) -> Problem:
        raise PromptError(WHY)

    # that nothing was complained of in the console is claimed of every watched page
    with serving([sample.circuits[0]], probe) as running:
        page = watched.open(running.address)
        expect(page.locator("#side .problem")).to_contain_text(WHY)
        expect(page.locator("#faithfulness")).to_have_text("–")
        page.locator("#find").fill("a1.h2")
        page.locator("#find").press("Enter")
        expect(page.locator("#side .problem")).to_contain_text(WHY)
        # it asks how far a search is, from time to time, and nobody would answer any more
        page.close()
