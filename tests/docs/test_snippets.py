"""Every block of the README and of docs/ runs as it stands, page by page; what does not is listed here."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from plait.training.recipes.schema import parse_recipe

from .made_files import FILES
from .pages import Block, list_pages, read_blocks, split_blocks
from .running import RUN, SHOWN, Page, split_commands

# pages that take more than about two seconds: they train
SLOW = {
    "docs/bad_input.md",
    "docs/guides/doctor.md",
    "docs/guides/explanations.md",
    "docs/guides/export.md",
    "docs/guides/fusions.md",
    "docs/guides/generation.md",
    "docs/guides/lora.md",
    "docs/guides/missing_modalities.md",
    "docs/guides/own_data.md",
    "docs/guides/predict_and_search.md",
    "docs/guides/pretraining.md",
    "docs/guides/recipes.md",
    "docs/guides/reports.md",
    "docs/guides/retrieval.md",
    "docs/guides/rewards.md",
    "docs/guides/run_folders.md",
    "docs/guides/serving.md",
    "docs/guides/streams.md",
    "docs/guides/text_to_image.md",
    "docs/guides/training.md",
    "docs/howto/cache_features.md",
    "docs/howto/columns.md",
    "docs/howto/other_trainers.md",
}
# ```console: commands that no test can run, with the reason; how many a page has
NOT_RUN: dict[str, tuple[int, str]] = {
    "README.md": (1, "make, in a clone"),
    "docs/bad_input.md": (1, "half an hour of random calls"),
    "docs/guides/export.md": (2, "pip install, and a script that needs no plait"),
    "docs/guides/many_gpus.md": (1, "several devices"),
    "docs/guides/quantization.md": (2, "torchao, which the tests do not install"),
    "docs/guides/predict_and_search.md": (1, "several processes"),
    "docs/guides/rewards.md": (1, "TRL, which the tests do not install"),
    "docs/guides/serving.md": (4, "pip install, and servers that run until Ctrl-C"),
    "docs/guides/sharing.md": (1, "a repository of the Hub"),
    "docs/quickstart.md": (2, "pip install, and make"),
}
COMMAND = re.compile(r"plait (?!demo:)|(pip|make|python|torchrun|accelerate|import|from) |\$ |>>> ")
# the results are records of runs on data that do not come with plait
PAGES = [page for page in list_pages() if not page.startswith("docs/results/")]
RUNNING = [page for page in PAGES if any(block.language in RUN for block in read_blocks(page))]


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in read_blocks(page)]


@pytest.mark.parametrize("page", [pytest.param(p, marks=pytest.mark.slow if p in SLOW else ()) for p in RUNNING])
def test_every_block_of_a_page_runs(page: str, open_page: Callable[[str], Page]) -> None:
    opened = open_page(page)
    for block in read_blocks(page):
        opened.run(block)


def test_every_block_says_what_it_is() -> None:
    assert {
        f"{block.place}: {block.language!r}" for block in all_blocks() if block.language not in RUN | SHOWN
    } == set()


def test_what_is_not_run_is_listed() -> None:
    """Few, and each with its reason: a new one is a decision."""
    found = Counter(block.page for block in all_blocks() if block.language == "console")
    assert dict(found) == {page: count for page, (count, _) in NOT_RUN.items()}
    assert sum(found.values()) <= 25


def test_no_command_hides_in_a_block_that_is_not_run() -> None:
    hidden = {
        f"{block.place}: {line}"
        for block in all_blocks()
        if block.language in SHOWN - {"console", "dockerfile"}
        for line in block.text.splitlines()
        if COMMAND.match(line)
    }
    assert hidden == set()


def test_a_yaml_block_is_a_recipe_or_a_part_of_one() -> None:
    recipes = [block for block in all_blocks() if block.language == "yaml"]
    assert recipes
    for block in recipes:
        parse_recipe(yaml.safe_load(block.text))  # an unknown key is an error with its name


def test_slow_pages_are_pages() -> None:
    assert set(RUNNING) >= SLOW


def test_the_made_files_are_there(made_files: Path) -> None:
    assert {path.name for path in made_files.iterdir()} == set(FILES)


def test_blocks_are_found_with_their_lines() -> None:
    text = 'a\n```python\nx = 1\n```\n\n1. b\n\n    ```yaml title="r.yaml"\n    a: 1\n    ```\n````text\n```\n````\n'
    assert split_blocks("p.md", text) == [
        Block("p.md", 3, "python", None, "x = 1"),
        Block("p.md", 9, "yaml", "r.yaml", "a: 1"),
        Block("p.md", 12, "text", None, "```"),
    ]
    with pytest.raises(ValueError, match="never closed"):
        split_blocks("p.md", "```python\nx = 1\n")


def test_commands_are_found_with_their_continuations() -> None:
    text = "# a comment\nplait train a \\\n  --seed 1\n\ncat > f <<EOF\nx\ny\nEOF\nls\n"
    assert list(split_commands(text)) == ["plait train a --seed 1", "cat > f <<EOF\nx\ny\nEOF", "ls"]


def test_a_block_that_fails_fails_its_page(tmp_path: Path) -> None:
    page = Page(tmp_path, tmp_path / "tools")
    for language, text in (
        ("python", "1 / 0"),
        ("bash", "plait train nothing.yaml"),
        ("bash", "false"),
        ("yaml", "a: ["),
    ):
        with pytest.raises((ZeroDivisionError, AssertionError, yaml.YAMLError)):
            page.run(Block("p.md", 1, language, None, text))
    page.run(Block("p.md", 1, "text", "notes/a.txt", "kept"))
    page.run(Block("p.md", 1, "bash", None, "plait --help > help.txt\ntest -s help.txt\ngrep -q kept notes/a.txt"))
