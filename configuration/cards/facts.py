"""What a card says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .licences import PartOrigin


@dataclass
class CardFacts:
    """What a card says.

    Attributes:
        name: the name of the folder or repository, which the snippet loads.
        summary: a sentence about the model.
        usage: Python lines from loading to a prediction.
        composition: the table of parts; empty for a processor alone.
        parts: where the weights of each part came from.
        use: what the model is for, and its limits.
        sections: further sections in Markdown, by their title: data, results, how to repeat it.
        pipeline_tag: the Hub's name of the task, None without one.
        tags: tags beside "plait".
        results: evaluations for the Hub's model-index (`huggingface_hub.EvalResult`).
        with_code: whether plait's code lies beside the model.
    """

    name: str
    summary: str
    usage: str
    use: str
    composition: str = ""
    parts: Sequence[PartOrigin] = ()
    sections: Mapping[str, str] = field(default_factory=dict)
    pipeline_tag: str | None = None
    tags: Sequence[str] = ()
    results: Sequence[Any] = ()
    with_code: bool = False
