"""Uploads what a model or processor saves to the Hub, with its card."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

from .facts import CardFacts
from .licences import README_FILE
from .rendering import is_generated, write_readme


def push_folder(
    save: Callable[[str], Any],
    repo_id: str,
    describe: Callable[[str], CardFacts],
    *,
    replaces_card: bool = True,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: list[str] | None = None,
) -> str:
    """Uploads what `save` writes into a folder, with the card that `describe` makes for the repository's name.

    A card in the repository that somebody wrote or edited stays as it is; one that plait wrote is replaced if
    `replaces_card`. The other arguments are those of transformers' `push_to_hub`. Returns the commit.
    """
    api = HfApi(token=token)
    name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr:
        api.create_branch(name, branch=revision, exist_ok=True)
    with TemporaryDirectory() as folder:
        save(folder)
        known = read_remote_card(api, name, revision)
        if known is None or (replaces_card and is_generated(known)):
            facts = describe(name)
            facts.tags = [*facts.tags, *(tags or ())]
            write_readme(Path(folder), facts)
        return api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=commit_message or "Upload by plait",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def read_remote_card(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """Returns the card of a repository; None if it has none."""
    try:
        return Path(api.hf_hub_download(repo_id, README_FILE, revision=revision)).read_text(encoding="utf-8")
    except (EntryNotFoundError, RevisionNotFoundError):
        return None
