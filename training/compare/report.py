"""The comparison as Markdown."""

from typing import Any

from ..recipes.schema import Recipe
from .summary import Comparison

PLOT_FILE = "compare.png"
PAGE_TEMPLATE = """# {title}

![{verdict}]({plot})

{body}
## How to repeat it

```
{command}
```
"""


def render_page(comparison: Comparison, recipe: Recipe, command: str) -> str:
    """Returns the page of a comparison: its title, plot and body, and the command that repeats it."""
    content = comparison.content
    return PAGE_TEMPLATE.format(
        title=f"Does fusion help? {recipe.task.replace('_', ' ').capitalize()}, {content['rows']:,} test rows",
        verdict=content["verdict"],
        plot=PLOT_FILE,
        body=render_body(content),
        command=command,
    )


def render_body(content: dict[str, Any]) -> str:
    """Returns the answer, the tables and how the numbers were measured."""
    return (
        "\n\n".join([render_answer(content), render_table(content), render_notes(content)])
        + "\n"
        + render_ablation(content)
    )


def render_answer(content: dict[str, Any]) -> str:
    """Returns in one line whether fusion helps."""
    found = (
        f"**{content['verdict'].capitalize()}**: {content['best_fusion']} (best fusion) - {content['best_single']} "
        f"(best single modality) = {format_difference(content['fusion_minus_single'])} {content['metric']}."
    )
    fair = content["chosen_elsewhere"]
    return (
        found if fair is None else f"{found} Both chosen for each fold on the other folds: {format_difference(fair)}."
    )


def render_table(content: dict[str, Any]) -> str:
    """Returns a table with a row per system."""
    others = [name for name in content["systems"][0]["metrics"] if name != content["metric"]]
    heads = ["system", content["metric"], f"gain over {content['best_single']}", *others]
    heads += ["trained parameters", "seconds a training"]
    lines = [format_row(heads), format_row(["---"] * len(heads))]
    for row in content["systems"]:
        gain = "-" if row["name"] == content["best_single"] else format_difference(row["gain"])
        cells = [row["name"], format_interval(row), gain, *(f"{row['metrics'][name]:.4f}" for name in others)]
        lines.append(format_row([*cells, f"{row['trainable']:,}", f"{row['seconds']:.1f}"]))
    if content["majority"] is not None:
        lines.append(format_row(["always the majority", f"{content['majority']:.4f}", *["-"] * (len(heads) - 2)]))
    return "\n".join(lines)


def render_notes(content: dict[str, Any]) -> str:
    """Returns how the numbers were measured: folds, seeds and intervals."""
    folds, seeds = content["folds"], content["seeds"]
    tested = (
        f"{folds} folds: every row is tested once, by a model that saw none of its group" if folds else "test split"
    )
    return (
        f"{tested}; seeds {', '.join(map(str, seeds))}. In brackets: 95 % bootstrap intervals ({content['bootstrap']} "
        f"resamples of {content['groups']:,} groups of test rows{' and of the seeds' if len(seeds) > 1 else ''}; "
        "differences are paired). The best of several is chosen on the rows that it is measured on, which flatters it."
    )


def render_ablation(content: dict[str, Any]) -> str:
    """Returns the tables of what each fusion scores on shuffled, blank and missing inputs."""
    if not content["audit"]:
        return ""
    kinds = [kind for kind in next(iter(content["audit"].values())) if not kind.startswith("only")]
    lines = ["", "## Does it use all modalities?", "", format_row(["system", "as it is", *kinds])]
    lines.append(format_row(["---"] * (len(kinds) + 2)))
    whole = {row["name"]: row for row in content["systems"]}
    for name, found in content["audit"].items():
        lines.append(
            format_row([name, f"{whole[name]['value']:.4f}", *(format_interval(found[kind]) for kind in kinds)])
        )
    said = "Shuffled: every row has the input of another row. Blank: an input without content."
    said = f"{content['metric'].capitalize()}. {said}"
    return "\n".join([*lines, "", said, "", *render_added(content), *render_missing_modalities(content)])


def render_added(content: dict[str, Any]) -> list[str]:
    """Returns the lines of the table of what each modality adds to the metric of a fusion of two."""
    added = {name: found for name, found in content.get("added", {}).items() if found}
    if not added:
        return []
    kinds = list(next(iter(added.values())))
    lines = [
        "## What does each modality add?",
        "",
        format_row(["system", *kinds]),
        format_row(["---"] * (len(kinds) + 1)),
    ]
    for name, found in added.items():
        lines.append(format_row([name, *(format_difference(found[kind]) for kind in kinds)]))
    said = (
        f"Shapley values in {content['metric']}, over shuffled inputs: what a modality adds, with its half of what "
        "both add only together; alone, without it."
    )
    return [*lines, "", said, ""]


def render_missing_modalities(content: dict[str, Any]) -> list[str]:
    """Returns the lines of the table of what each fusion scores where modalities are missing."""
    heads = ["system", "present", content["metric"], "lost", "gain over the best single that is present"]
    lines = ["## What if a modality is missing?", "", format_row(heads), format_row(["---"] * len(heads))]
    for name, found in content["audit"].items():
        for kind in (kind for kind in found if kind.startswith("only")):
            gain = (
                f"{format_difference(found[kind]['gain'])} ({found[kind]['single']})" if "gain" in found[kind] else "-"
            )
            cells = [
                name,
                kind.removeprefix("only "),
                format_interval(found[kind]),
                format_difference(found[kind]["lost"]),
                gain,
            ]
            lines.append(format_row(cells))
    return [*lines, ""]


def format_row(cells: list[str]) -> str:
    """Returns a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def format_interval(interval: dict[str, Any]) -> str:
    """Returns a value with its interval, such as 0.5000 [0.4000, 0.6000]."""
    return f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"


def format_difference(interval: dict[str, Any]) -> str:
    """Returns a difference with its interval, both signed, such as +0.1000 [-0.0500, +0.2500]."""
    return f"{interval['value']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"
