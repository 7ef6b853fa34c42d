"""The comparison as markdown."""

from typing import Any

from ..recipes.schema import Recipe
from .summary import Comparison

PLOT = "compare.png"
PAGE = """# {title}

![{verdict}]({plot})

{body}
## How to repeat it

```
{command}
```
"""


def markdown(comparison: Comparison, recipe: Recipe, command: str) -> str:
    """A whole page."""
    content = comparison.content
    return PAGE.format(
        title=f"Does fusion help? {recipe.task.replace('_', ' ').capitalize()}, {content['rows']:,} test rows",
        verdict=content["verdict"],
        plot=PLOT,
        body=body(content),
        command=command,
    )


def body(content: dict[str, Any]) -> str:
    """Answer, tables and how they came about."""
    return "\n\n".join([answer(content), table(content), notes(content)]) + "\n" + audit(content)


def answer(content: dict[str, Any]) -> str:
    """The question's answer in one line."""
    found = (
        f"**{content['verdict'].capitalize()}**: {content['best_fusion']} (best fusion) - {content['best_single']} "
        f"(best single modality) = {signed(content['fusion_minus_single'])} {content['metric']}."
    )
    fair = content["chosen_elsewhere"]
    return found if fair is None else f"{found} Both chosen for each fold on the other folds: {signed(fair)}."


def table(content: dict[str, Any]) -> str:
    """A row a system."""
    others = [name for name in content["systems"][0]["metrics"] if name != content["metric"]]
    heads = ["system", content["metric"], f"gain over {content['best_single']}", *others]
    heads += ["trained parameters", "seconds a training"]
    lines = [line(heads), line(["---"] * len(heads))]
    for row in content["systems"]:
        gain = "-" if row["name"] == content["best_single"] else signed(row["gain"])
        cells = [row["name"], bounded(row), gain, *(f"{row['metrics'][name]:.4f}" for name in others)]
        lines.append(line([*cells, f"{row['trainable']:,}", f"{row['seconds']:.1f}"]))
    if content["majority"] is not None:
        lines.append(line(["always the majority", f"{content['majority']:.4f}", *["-"] * (len(heads) - 2)]))
    return "\n".join(lines)


def notes(content: dict[str, Any]) -> str:
    """How the numbers came about."""
    folds, seeds = content["folds"], content["seeds"]
    tested = (
        f"{folds} folds: every row is tested once, by a model that saw none of its group" if folds else "test split"
    )
    return (
        f"{tested}; seeds {', '.join(map(str, seeds))}. In brackets 95 % bootstrap intervals ({content['bootstrap']} "
        f"resamples of {content['groups']:,} groups of test rows{' and of the seeds' if len(seeds) > 1 else ''}; "
        "differences are paired). The best of several is chosen on the rows that it is measured on, which flatters it."
    )


def audit(content: dict[str, Any]) -> str:
    """What each fusion scores on changed rows."""
    if not content["audit"]:
        return ""
    kinds = [kind for kind in next(iter(content["audit"].values())) if not kind.startswith("only")]
    lines = ["", "## Does it look at all modalities?", "", line(["system", "as it is", *kinds])]
    lines.append(line(["---"] * (len(kinds) + 2)))
    whole = {row["name"]: row for row in content["systems"]}
    for name, found in content["audit"].items():
        lines.append(line([name, f"{whole[name]['value']:.4f}", *(bounded(found[kind]) for kind in kinds)]))
    said = "Shuffled: every row has another row's. Blank: an input without content."
    return "\n".join([*lines, "", f"{content['metric'].capitalize()}. {said}", "", *missing(content)])


def missing(content: dict[str, Any]) -> list[str]:
    """What each fusion scores where modalities are left out."""
    heads = ["system", "present", content["metric"], "lost", "gain over the best single that is present"]
    lines = ["## What if a modality is missing?", "", line(heads), line(["---"] * len(heads))]
    for name, found in content["audit"].items():
        for kind in (kind for kind in found if kind.startswith("only")):
            beside = f"{signed(found[kind]['gain'])} ({found[kind]['single']})" if "gain" in found[kind] else "-"
            cells = [name, kind.removeprefix("only "), bounded(found[kind]), signed(found[kind]["lost"]), beside]
            lines.append(line(cells))
    return [*lines, ""]


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def bounded(interval: dict[str, Any]) -> str:
    return f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"


def signed(interval: dict[str, Any]) -> str:
    return f"{interval['value']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"
