"""How the page looks: at every width, in both themes, to everybody's eyes."""

import re
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from subcircuit.graph import MethodRecord
from subcircuit.report.page import Shown, report_document, write_report
from subcircuit.search import meaning_of_scores
from tests.graph.strategies import record
from tests.viewer.conftest import HOSTILE, Sample, Watched

# Machado, Oliveira & Fernandes 2009: what is seen with one kind of cone missing, as matrices on linear RGB
VISIONS = {
    "all": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, vision: str) -> np.ndarray:
    """A colour in CIELAB as it is seen."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(VISIONS[vision]) @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def colours_of(page: Page, *names: str) -> list[str]:
    return page.evaluate(
        "(names) => names.map((n) => getComputedStyle(document.documentElement).getPropertyValue(`--${n}`).trim())", names
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_colours_of_a_comparison_are_told_apart_by_everybody(watched: Watched, report: str, theme: str, vision: str) -> None:
    page = watched.open(f"{report}#other=1&theme={theme}")
    colours = colours_of(page, "side-shared", "side-left", "side-right", "page", "bar")
    seen = [lab(colour, vision) for colour in colours]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 28


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_colour_of_a_comparison_means_one_thing(watched: Watched, report: str, theme: str) -> None:
    page = watched.open(f"{report}#other=1&theme={theme}")
    sides = {
        name: tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        for name, colour in zip(("left", "right"), colours_of(page, "side-left", "side-right"), strict=True)
    }
    used = page.evaluate(
        "() => [...document.querySelectorAll('body *')].flatMap((e) => ['color', 'backgroundColor', 'borderTopColor', 'boxShadow', 'stroke', 'fill']"
        ".map((p) => [e.className.baseVal ?? e.className, getComputedStyle(e)[p]]))"
    )
    for name, rgb in sides.items():
        word = f"rgb({rgb[0]}, {rgb[1]}, {rgb[2]})"
        meant = {classes for classes, value in used if word in value}
        assert meant == {f"stroke side-{name}", f"chip side-{name}"}
    # the sign of an effect is no colour: bars of what helps when cut are hollow
    # the side may be drawn again meanwhile: an element that has gone has no style
    expect(page.locator("#side .length.less").first).to_have_css("background-color", "rgba(0, 0, 0, 0)")


@pytest.mark.parametrize("circuits", [1, 2, 3])
def test_nothing_is_cut_off_at_any_width(watched: Watched, sample: Sample, tmp_path: Path, circuits: int) -> None:
    page = watched.page
    names = [f"runs/indirect-object-identification-smollm2-135m-{number}" for number in range(circuits)]
    shown = [Shown(name, sample.circuits[i % 2].circuit, {}) for i, name in enumerate(names)]
    content = report_document(shown, [sample.problem] * circuits, points=3)
    content["circuits"][0]["warnings"] = [
        "a warning that is long enough to take two lines on a telephone, of --edges " + "9" * 60
    ]
    address = write_report(content, tmp_path / "wide.html").as_uri()
    views = ["#prompt=0", "#node=a1.h2", *(["#other=1", "#other=1&node=a1.h2"] if circuits > 1 else [""])]
    for width, view in product((390, 1024, 1280, 1920), views):
        page.set_viewport_size({"width": width, "height": 844})
        watched.open(address + view)
        beyond = page.evaluate(
            "() => [...document.querySelectorAll('body *')].filter((e) => !e.closest('#view, .hidden, option') && e.getBoundingClientRect().width"
            " && e.getBoundingClientRect().right > innerWidth + 1).map((e) => `${e.tagName}#${e.id}.${e.className}`)"
        )
        assert (width, view, beyond) == (width, view, [])
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_warnings_of_the_search_are_shown_as_plain_text(watched: Watched, sample: Sample, tmp_path: Path) -> None:
    content = report_document(
        [Shown("one", sample.circuits[0].circuit, {}), Shown("two", sample.circuits[1].circuit, {})], [None, None]
    )
    content["circuits"][1]["warnings"] = ["the circuit is empty", HOSTILE]
    page = watched.open(write_report(content, tmp_path / "warned.html").as_uri())
    expect(page.locator("#warnings")).to_be_hidden()
    page.locator("#other").select_option("1")
    expect(page.locator("#warnings p")).to_have_text(["two: the circuit is empty", re.compile(r"two: <script>document\.title")])
    assert page.title() != "owned"
    assert page.locator("img").count() == 0


def test_the_legend_says_what_scores_mean(watched: Watched, sample: Sample, tmp_path: Path) -> None:
    known = record()
    searched = known.model_copy(update={"method": MethodRecord(name="acdc", parameters={})})
    circuit = replace(sample.circuits[0].circuit, record=searched)
    meaning = meaning_of_scores(searched)
    assert meaning
    content = report_document([Shown("one", circuit, {}), Shown("two", circuit, {})], [None, None])
    page = watched.open(write_report(content, tmp_path / "meaning.html").as_uri())
    expect(page.locator("#legend")).to_contain_text(f"width: size of the effect, {meaning}")
    page.locator("#other").select_option("1")
    expect(page.locator("#legend")).not_to_contain_text(meaning)
