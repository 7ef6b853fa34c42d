"""Defaults do not change: a saved config, a recipe and a call keep their meaning."""

import json

from .defaults import FILE, collect_defaults


def test_every_default_is_the_one_of_saved_folders() -> None:
    """A new name may come with any default; `python tests/compatibility/defaults.py` writes it down."""
    saved, now = json.loads(FILE.read_text()), collect_defaults()
    changed = {
        f"{owner}.{name}": (default, now.get(owner, {}).get(name))
        for owner, defaults in saved.items()
        for name, default in defaults.items()
        if now.get(owner, {}).get(name) != default
    }
    assert not changed
    assert {owner: set(names) for owner, names in now.items()} == {owner: set(names) for owner, names in saved.items()}
