"""The page of explanations: everything is on it, and nothing that a user wrote is code."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plait.training.explanations.pages.colours import (
    add_scale,
    draw_overlay,
    find_full_colour,
    map_colours,
    to_css,
)
from plait.training.explanations.pages.drawing import save_overlays
from plait.training.explanations.pages.page import render_explanations
from plait.training.explanations.results import Attribution, Explanation, RowExplanation

EVIL = '<script>alert("x")</script>'


def build_page(reports: dict[str, str] | None = None) -> str:
    rows = [
        {
            "text": f"{EVIL} it's red",
            "image": Image.new("RGB", (8, 6), "red"),
            "audio": {"array": np.zeros(10), "sampling_rate": 10},
            "age": EVIL,
        },
        {"text": "another", "image": Image.new("RGB", (8, 6), "blue"), "audio": None, "age": 3},
    ]
    words = rows[0]["text"].split()
    attributions = {
        "text": Attribution("text", np.array([0.5, -1.0, 2.0]), words=words, spans=[(0, 1)] * 3),
        "image": Attribution("image", np.random.default_rng(0).standard_normal((6, 8))),
        "audio": Attribution("audio", np.array([1.0, -0.5]), times=np.array([0, 0.5, 1.0]), maps=np.ones((4, 6))),
        "video": Attribution("video", np.array([1.0, 0.0]), times=np.array([0, 0.5]), maps=np.ones((2, 4, 4))),
        "table": Attribution("table", np.array([1.0]), columns=["age"]),
    }
    found = [
        RowExplanation(f"class {EVIL}", -0.1, -2.0, attributions),
        RowExplanation("b", -0.1, -2.0, {"text": Attribution("text", np.zeros(1), words=["another"], spans=[(0, 7)])}),
    ]
    return render_explanations(rows, Explanation(found, "occlusion", {"text": "mask"}), f"run {EVIL}", reports=reports)


def test_what_a_user_wrote_is_text() -> None:
    page = build_page({"a report": EVIL})
    assert page.count("<script>") == page.count("</script>") == 1  # the page's own search
    assert "&lt;script&gt;" in page and "it&#x27;s" in page


def test_the_tables_of_reports_are_tables() -> None:
    text = f"Before.\n\n| | adds | 95 % |\n| --- | --- | --- |\n| text | +1 | - |\n| {EVIL} | -2 | [1, 2] |\n\nA note."
    page = build_page({"a report": text})
    assert ">Before.</p>\n<table>\n<tr><th></th><th>adds</th><th>95 %</th></tr>\n<tr><td>text</td>" in page
    assert "<td>-</td></tr>" in page and "A note.</p>" in page and "---" not in page
    assert page.count("<script>") == 1


def test_the_page_loads_nothing_else() -> None:
    page = build_page()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) >= 5 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)


def test_every_input_is_shown_and_rows_can_be_searched() -> None:
    page = build_page()
    assert page.count("<section") == 2 and page.count("data-search=") == 2 and page.count('class="word"') == 4
    assert page.count("<svg") == 2 and page.count("<rect") == 4 and "frame 1" in page and "<table>" in page
    assert 'data-search="row 1 b another"' in page


def test_colours_tell_signs_apart_and_words_can_be_read() -> None:
    low, middle, high = map_colours(np.array([-2.0, 0.0, 2.0]), 1.0).astype(int)
    assert low[2] > low[0] and high[0] > high[2] and middle.min() > 240  # purple, orange, nearly white
    assert "color:#fff" in to_css(1.0, 1.0) and "color:#000" in to_css(0.0, 1.0)
    assert find_full_colour(np.array([0.0, -3.0])) == pytest.approx(3, rel=0.1) and find_full_colour(np.zeros(2)) == 1
    assert find_full_colour() == 1


def test_an_overlay_has_the_image_and_a_scale() -> None:
    image = Image.new("RGB", (8, 6), (200, 200, 200))
    values = np.zeros((6, 8))
    values[0, 0] = 1
    drawn = draw_overlay(image, values, 1.0)
    assert drawn.width % 8 == 0 and drawn.width >= 192
    grey, orange = drawn.getpixel((drawn.width - 1, drawn.height - 1)), drawn.getpixel((0, 0))
    assert len(set(grey)) == 1 and orange[0] > orange[2] + 50
    assert add_scale(drawn, 1.0, "nats").height > drawn.height
    with pytest.raises(ValueError, match="give one of its size"):
        draw_overlay(image, values.T, 1.0)


def test_images_are_saved_one_for_each_map(tmp_path: Path) -> None:
    rows = [{"image": [Image.new("RGB", (8, 6)), Image.new("RGB", (4, 4))]}]
    maps = {f"image.{n}": Attribution("image", np.ones(shape)) for n, shape in enumerate([(6, 8), (4, 4)])}
    files = save_overlays(rows, Explanation([RowExplanation("a", 0.0, 0.0, maps)], "occlusion"), tmp_path)
    assert [file.name for file in files] == ["row-0-image.0.png", "row-0-image.1.png"]
    assert all(Image.open(file).width == 192 for file in files)
