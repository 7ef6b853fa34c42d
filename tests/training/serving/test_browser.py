"""A page as somebody sees it: in Chromium, by playwright; skipped without them."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plait.training.serving import ServedModel

from .conftest import IMAGE, load_run

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")]
Launch = Callable[[ServedModel], tuple[Any, Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, launched: Launch) -> Iterator[Callable[[str], Any]]:
    """Opens the page of a run; whatever it requests must come from its own server."""
    elsewhere: list[str] = []
    pages: list[Any] = []

    def open_run(name: str) -> Any:
        blocks, _ = launched(load_run(name))
        page = browser.new_page()
        pages.append(page)
        local = (blocks.local_url, "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(local) else elsewhere.append(asked.url))
        page.goto(blocks.local_url)
        return page

    yield open_run
    for page in pages:
        page.close()
    assert not elsewhere


def test_a_question_about_a_picture(open_page: Callable[[str], Any]) -> None:
    """Fill in, press, read; then why; and first, what is said when nothing is filled in."""
    page = open_page("classification")
    answer = page.get_by_role("button", name="Answer", exact=True)
    answer.click()
    page.get_by_text("nothing is filled in: give question or file").wait_for()
    page.get_by_label("question").fill("is it red ?")
    page.locator("input[type=file]").first.set_input_files(IMAGE)
    page.locator("img[alt='']").or_(page.locator(".image-frame img")).first.wait_for()
    answer.click()
    page.locator("[data-testid=label-output-value]").wait_for()
    assert page.locator("[data-testid=label-output-value]").inner_text().strip() in ("blue", "no", "red", "yes")
    page.get_by_role("tab", name="Explanation").click()
    page.get_by_role("button", name="Explain").click()
    page.locator(".plait-explained h2").wait_for()
    assert page.locator(".plait-explained .word").count() >= 4 and page.locator(".plait-explained img").count() == 2
    page.get_by_text("About this model").click()
    page.get_by_text("The model knows 4 labels and no others").wait_for()


def test_a_conversation(open_page: Callable[[str], Any]) -> None:
    page = open_page("dialogue")
    page.get_by_placeholder("your message").fill("Where does Anna live ?")
    page.get_by_placeholder("your message").press("Enter")
    page.locator(".message.bot, [data-testid=bot]").first.wait_for()
    assert page.get_by_text("Where does Anna live ?").count() >= 1


def test_an_answer_in_its_context(open_page: Callable[[str], Any]) -> None:
    page = open_page("question_answering")
    page.get_by_label("question").fill("Where does Ben live ?")
    page.get_by_label("context").first.fill("Nobody comes . Ben lives in Paris .")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.locator(".plait-value").wait_for()
    assert page.locator(".plait-value").inner_text() in "Nobody comes . Ben lives in Paris ."
