"""The card that a Trainer writes of its model."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import EvalResult
from transformers import TrainerState

from ...configuration import cards
from ...modeling.backbone.sharing import ShareableModel, describe_card

EVALUATION = "eval_"
SPEEDS = ("_runtime", "_per_second")  # endings of what an evaluation measures beside the model
UNNAMED_DATA = "data without a name"


def write_trainer_card(
    folder: Path,
    model: ShareableModel,
    state: TrainerState,
    name: str | None = None,
    tags: str | Iterable[str] | None = None,
    dataset: str | Iterable[str] | None = None,
    known: str | None = None,
) -> bool:
    """Writes the card of a model into a Trainer's folder, with its last evaluation, unless somebody wrote or edited
    one; returns whether it did.

    name: of the model, default: the folder's; dataset: the names of the training data; known: the card of the
    repository that the folder is uploaded to, which takes the place of a new one if somebody wrote it.
    """
    if known is not None and not cards.is_generated(known):
        (folder / "README.md").write_text(known, encoding="utf-8")
        return False
    facts = describe_card(model, name or folder.resolve().name)
    given = [dataset] if isinstance(dataset, str) else [*(dataset or ())]
    metrics = find_last_evaluation(state)
    source = ", ".join(given) or UNNAMED_DATA
    facts.tags = [*facts.tags, *([tags] if isinstance(tags, str) else tags or ())]
    facts.sections = {"Data": f"Trained on {source}, {state.global_step} steps.", "Results": render_metrics(metrics)}
    hub_task = facts.pipeline_tag or "other"
    facts.results = [EvalResult(hub_task, source, source, key, round(value, 6)) for key, value in metrics.items()]
    return cards.write_readme(folder, facts)


def find_last_evaluation(state: TrainerState) -> dict[str, float]:
    """Returns the metrics of the last evaluation of a training."""
    logged = [log for log in state.log_history if any(key.startswith(EVALUATION) for key in log)]
    return {
        key.removeprefix(EVALUATION): float(value)
        for key, value in (logged[-1] if logged else {}).items()
        if key.startswith(EVALUATION) and not key.endswith(SPEEDS) and isinstance(value, (int, float))
    }


def render_metrics(metrics: Mapping[str, float]) -> str:
    """Returns a Markdown table of metrics."""
    if not metrics:
        return "Nothing was measured."
    rows = [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    return "\n".join(["| metric | value |", "|---|---|", *rows])
