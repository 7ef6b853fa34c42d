"""A recipe that would take gigabytes, or that Python cannot read, is an error of one line."""

from pathlib import Path

import pytest
import yaml

from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import MAX_DEPTH, parse_overrides, parse_yaml, read_yaml, set_dotted

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "m0: &m0 {k: v}\n" + "".join(f"m{n}: &m{n}\n  <<: [{','.join([f'*m{n - 1}'] * 9)}]\n" for n in range(1, 12))
TEXTS = {
    "billion laughs": LAUGHS,
    "merge bomb": MERGED,
    "itself": "a: &a [*a]",
    "deep": "[" * 100_000,
    "deep blocks": "".join(" " * n + "a:\n" for n in range(200)),
    "many": "a: [" + "1," * 25_000 + "]",
    "long number": "seed: " + "9" * 5000,
    "timestamp": "!!timestamp x",
    "empty int": "!!int ''",
    "day": "d: 2024-13-45",
    "python": "!!python/object/apply:os.getcwd []",
    "key": "? [a]\n: b",
    "character": "a: \x01",
}


@pytest.mark.parametrize("name", TEXTS)
def test_such_a_file_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(TEXTS[name])
    with pytest.raises(RecipeError, match=r"^\S*r.yaml is not valid yaml: [^\n]*$"):
        read_yaml(file)
    with pytest.raises(RecipeError, match="--data is not valid yaml|--data: .* is not valid yaml"):
        parse_overrides(["--data", TEXTS[name]])


def test_aliases_of_a_recipe_still_stand_for_their_values() -> None:
    text = "one: &one {a: 1, b: [1, 2]}\ntwo: *one\nthree: {<<: *one, a: 3}\n"
    assert parse_yaml(text) == yaml.safe_load(text) == {
        "one": {"a": 1, "b": [1, 2]}, "two": {"a": 1, "b": [1, 2]}, "three": {"a": 3, "b": [1, 2]},
    }  # fmt: skip


def test_a_key_of_too_many_parts_is_an_error() -> None:
    with pytest.raises(RecipeError, match="levels deep"):
        set_dotted({}, ".".join("a" * (MAX_DEPTH + 2)), 1)
