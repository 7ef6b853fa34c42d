"""Renders cards, and replaces only cards that plait wrote and nobody edited."""

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from .facts import CardFacts
from .licences import README_FILE, PartOrigin

CARD_MARK = re.compile(r"\n<!-- plait wrote this card, and replaces it until it is edited: ([0-9a-f]{64}) -->\n*\Z")
TEMPLATE = """---
{metadata}
---

# {name}

{summary}

{install}

```python
{usage}
```

"""


def render_hub_card(facts: CardFacts) -> str:
    """Renders a card, with a last line by which an edited card is known."""
    text = TEMPLATE.format(
        metadata=build_metadata(facts).to_yaml(),
        name=facts.name,
        summary=facts.summary,
        install=describe_install(facts),
        usage=facts.usage,
    )
    composition = "\n\n".join(part for part in (render_composition(facts), render_parts(facts)) if part)
    sections = {**({"What it is made of": composition} if composition else {}), **facts.sections}
    sections["Intended use and limits"] = facts.use
    text += "\n\n".join(f"## {title}\n\n{content.strip()}" for title, content in sections.items() if content.strip())
    text = text.rstrip() + "\n"
    return f"{text}\n<!-- plait wrote this card, and replaces it until it is edited: {compute_mark(text)} -->\n"


def compute_mark(text: str) -> str:
    """Returns the hash that the last line of a card holds."""
    return sha256(text.strip().encode()).hexdigest()


def is_generated(text: str) -> bool:
    """Returns whether a card is as plait wrote it."""
    found = CARD_MARK.search(text)
    return found is not None and found[1] == compute_mark(text[: found.start()])


def write_readme(folder: Path, facts: CardFacts) -> bool:
    """Writes README.md into a folder unless there is one that somebody wrote or edited; returns whether it did."""
    file = folder / README_FILE
    if file.is_file() and not is_generated(file.read_text(encoding="utf-8")):
        return False
    file.write_text(render_hub_card(facts), encoding="utf-8")
    return True


def build_metadata(facts: CardFacts) -> ModelCardData:
    """Returns the metadata of the Hub: with a licence only if all parts have the same."""
    licences = {part.licence for part in facts.parts if part.source is not None}
    known: dict[str, Any] = {"model_name": facts.name.rpartition("/")[2], "eval_results": [*facts.results]}
    bases = dict.fromkeys(base for part in facts.parts for base in part.base_models)
    return ModelCardData(
        library_name="transformers" if facts.with_code else "plait",
        pipeline_tag=facts.pipeline_tag,
        tags=["plait", *facts.tags, *(["custom_code"] if facts.with_code else [])],
        license=licences.pop() if len(licences) == 1 else None,
        base_model=[*bases] or None,
        **(known if facts.results else {}),
    )


def describe_install(facts: CardFacts) -> str:
    """Returns how to install what the snippet needs."""
    if facts.with_code:
        return "`pip install torch transformers` suffices: plait's own code lies beside the model."
    return "`pip install plait`, and then:"


def render_composition(facts: CardFacts) -> str:
    """Returns the table of parts as a block."""
    return f"```\n{facts.composition}\n```" if facts.composition else ""


def render_parts(facts: CardFacts) -> str:
    """Returns a line for each part that came from a checkpoint, with its licence."""
    return "\n".join(describe_origin(part) for part in facts.parts if part.source is not None)


def describe_origin(part: PartOrigin) -> str:
    """Returns where a part came from, and under which licence."""
    licence = "licence not known: see its page" if part.licence is None else f"licence: {part.licence}"
    return f"- {part.part}: {part.source} ({licence})"
