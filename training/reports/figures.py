"""The figures of a report, each a function that draws into a new matplotlib figure."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.labels import MULTI, REGRESSION, SINGLE
from ..metrics.classification import find_known_rows
from .answers import Answers
from .calibration import BINS, compute_calibration, count_confusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHART_BLUE, CHART_ORANGE, CHART_GREY, CHART_LINE = "#1f5fa8", "#c8641e", "#6b6b6b", "#d5d5d5"
MOST_CLASSES = 24  # of a confusion matrix; the others are one row and one column
MOST_CURVES = 2  # metrics beside the loss
MOST_POINTS = 4000  # of a scatter plot
OTHERS = "(others)"
HIDDEN_LOGS = ("epoch", "step", "total_flos", "runtime", "per_second", "learning_rate", "grad_norm", "preparation_time")


def list_figures(answers: Answers, history: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """Returns the figures that there is something to draw for, by file name without its ending, each as a heading and a
    function that draws it."""
    found: dict[str, tuple[str, Callable[[], Figure]]] = {}
    if any("loss" in entry or "eval_loss" in entry for entry in history):
        found["learning_curves"] = ("Learning curves", lambda: draw_curves(history))
    if answers.kind == SINGLE:
        found["confusion"] = ("Confusion matrix", lambda: draw_confusion(answers, labels))
    if answers.kind == MULTI:
        found["labels"] = ("Each label", lambda: draw_labels(answers, labels))
    if answers.kind in (SINGLE, MULTI):
        found["reliability"] = ("Reliability", lambda: draw_reliability(answers))
    if answers.kind == REGRESSION:
        found["values"] = ("Predicted against true", lambda: draw_values(answers))
    names = [name for name in answers.scores if "recall@" not in name and "mrr" not in name]
    if any("recall@" in name for name in answers.scores):
        found["recall"] = ("Recall", lambda: draw_recall(answers))
    elif names:
        found["scores"] = ("Scores of single rows", lambda: draw_scores(answers, names))
    return found


def new_figure(width: float, height: float, columns: int = 1) -> Any:
    """Returns a figure of this size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(CHART_GREY)
    return figure, list(axes)


def draw_curves(history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draws the loss of training and validation, and each validation metric, over the steps."""
    trained = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry and "step" in entry]
    measured: dict[str, list[tuple[float, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            shown = name.startswith("eval_") and isinstance(value, (int, float)) and not name.endswith(HIDDEN_LOGS)
            if shown and "step" in entry:
                measured.setdefault(name.removeprefix("eval_"), []).append((entry["step"], value))
    losses = measured.pop("loss", [])
    names = list(measured)[:MOST_CURVES]
    figure, axes = new_figure(4.2 * (1 + len(names)), 3.2, 1 + len(names))
    for points, name, colour in ((trained, "training", CHART_BLUE), (losses, "validation", CHART_ORANGE)):
        if points:
            draw_points(axes[0], points, name, colour)
    axes[0].set_title("Loss", loc="left", fontsize=10)
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False, fontsize=8)
    for one, name in zip(axes[1:], names, strict=True):
        draw_points(one, measured[name], "validation", CHART_ORANGE)
        one.set_title(f"Validation {name.replace('_', ' ')}", loc="left", fontsize=10)
    for one in axes:
        one.set_xlabel("training step")
        one.xaxis.get_major_locator().set_params(integer=True)
        one.grid(axis="y", color=CHART_LINE, linewidth=0.6)
    return figure


def draw_points(axes: Any, points: Sequence[tuple[float, float]], name: str, colour: str) -> None:
    """Draws values over steps as a line, with dots where they are few."""
    steps, values = zip(*points, strict=True)
    axes.plot(
        steps, values, color=colour, label=name, linewidth=1.6, marker="o" if len(points) < 20 else "", markersize=4
    )


def draw_confusion(answers: Answers, labels: Sequence[str]) -> "Figure":
    """Draws how often rows of each class were given each class, as shares of the class's rows and as counts."""
    truth, chosen = answers.arrays["truth"], answers.arrays["chosen"]
    known = find_known_rows(truth, SINGLE)
    names = list(labels) or [str(number) for number in range(int(max(truth.max(), chosen.max())) + 1)]
    truth, chosen, names = merge_rare(truth[known], chosen[known], names)
    counts = count_confusion(truth, chosen, len(names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(3.4, 1.6 + 0.42 * len(names)), 11)
    figure, (axes,) = new_figure(side + 1.2, side)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    short = [name if len(name) <= 18 else f"{name[:17]}…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), short, fontsize=8)
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.55 else "black"
        size = 8 if len(names) <= 14 else 6
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{int(known.sum()):,} rows; colour: share of\nthe rows of the true class", loc="left", fontsize=10)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.04)
    bar.outline.set_visible(False)
    return figure


def merge_rare(truth: np.ndarray, chosen: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns the classes of rows, true and chosen, with all but the MOST_CLASSES most frequent ones as one class, and
    the names of the classes that are left."""
    if len(names) <= MOST_CLASSES:
        return truth, chosen, list(names)
    order = np.argsort(-np.bincount(np.concatenate([truth, chosen]), minlength=len(names)), kind="stable")
    kept = np.sort(order[: MOST_CLASSES - 1])
    place = np.full(len(names), len(kept))
    place[kept] = np.arange(len(kept))
    return place[truth], place[chosen], [*(names[number] for number in map(int, kept)), OTHERS]


def draw_reliability(answers: Answers) -> "Figure":
    """Draws the share of right answers against their confidence, and how many answers each confidence has."""
    confidence, right = select_decisions(answers)
    found = compute_calibration(confidence, right)
    figure, (axes, below) = new_figure(8.4, 3.6, 2)
    centres, width = (np.arange(BINS) + 0.5) / BINS, 1 / BINS
    filled = found.counts > 0
    axes.plot([0, 1], [0, 1], color=CHART_GREY, linestyle="--", linewidth=1, label="perfectly calibrated", zorder=3)
    axes.bar(centres[filled], found.accuracies[filled], width * 0.92, color=CHART_BLUE, alpha=0.85, label="measured")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence of the answer", ylabel="share of right answers")
    axes.set_title(f"Expected calibration error {found.error:.3f}", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    below.bar(centres, found.counts, width * 0.92, color=CHART_GREY)
    below.set(xlim=(0, 1), xlabel="confidence of the answer", ylabel="answers")
    what = "labels of rows" if answers.kind == MULTI else "rows"
    below.set_title(f"{len(confidence):,} {what}, mean confidence {confidence.mean():.2f}", loc="left", fontsize=10)
    return figure


def select_decisions(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Returns the confidence, (answers,), of each decision with a known truth, and whether it is right; of several
    labels each one of a row is a decision: that it applies, or that it does not."""
    truth, chosen, confidence = (answers.arrays[name] for name in ("truth", "chosen", "confidence"))
    known = truth >= 0
    if answers.kind == MULTI:
        confidence = np.where(chosen > 0, confidence, 1 - confidence)
    return np.clip(confidence[known].astype(float), 0, 1), (truth == chosen)[known]


def draw_labels(answers: Answers, labels: Sequence[str]) -> "Figure":
    """Draws precision and recall of each label, the most frequent first."""
    truth, chosen = answers.arrays["truth"], answers.arrays["chosen"]
    known = truth >= 0
    hits = ((truth == 1) & (chosen == 1) & known).sum(axis=0)
    given, present = ((chosen == 1) & known).sum(axis=0), (truth == 1).sum(axis=0)
    order = np.argsort(-present, kind="stable")[:MOST_CLASSES][::-1]
    figure, (axes,) = new_figure(7.2, 1.3 + 0.36 * len(order))
    places = np.arange(len(order))
    axes.barh(places + 0.19, (hits / np.maximum(given, 1))[order], 0.36, color=CHART_BLUE, label="precision")
    axes.barh(places - 0.19, (hits / np.maximum(present, 1))[order], 0.36, color=CHART_ORANGE, label="recall")
    names = [f"{labels[number] if len(labels) else number} (n={present[number]:,})" for number in order]
    axes.set_yticks(places, names, fontsize=8)
    axes.set(xlim=(0, 1), xlabel="share")
    axes.set_title(f"{len(truth):,} rows, n: rows with the label", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def draw_values(answers: Answers) -> "Figure":
    """Draws the predicted numbers against the true ones, and the errors."""
    truth, predicted = answers.arrays["truth"].reshape(answers.count, -1), answers.arrays["chosen"]
    truth, predicted = truth[:, 0], np.asarray(predicted, dtype=float).reshape(answers.count, -1)[:, 0]
    known = np.isfinite(truth) & np.isfinite(predicted)
    truth, predicted = truth[known], predicted[known]
    figure, (axes, errors) = new_figure(8.4, 3.8, 2)
    shown = np.linspace(0, len(truth) - 1, min(len(truth), MOST_POINTS)).astype(int)
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axes.plot(ends, ends, color=CHART_GREY, linestyle="--", linewidth=1, label="equal")
    axes.scatter(
        truth[shown], predicted[shown], s=10 if len(shown) > 300 else 24, color=CHART_BLUE, alpha=0.5, linewidths=0
    )
    axes.set(xlabel="true value", ylabel="predicted value")
    note = "" if len(shown) == len(truth) else f", {len(shown):,} drawn"
    axes.set_title(f"{len(truth):,} rows{note}", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    errors.hist(predicted - truth, bins=min(40, max(8, len(truth) // 10)), color=CHART_GREY)
    errors.axvline(0, color=CHART_ORANGE, linewidth=1)
    errors.set(xlabel="predicted minus true", ylabel="rows")
    title = f"Mean error {np.mean(predicted - truth):+.3g}, mean size {np.mean(np.abs(predicted - truth)):.3g}"
    errors.set_title(title, loc="left", fontsize=10)
    return figure


def draw_recall(answers: Answers) -> "Figure":
    """Draws the recall at each depth, in both directions."""
    figure, (axes,) = new_figure(5.2, 3.4)
    found: dict[str, list[tuple[int, float]]] = {}
    for name, score in answers.scores.items():
        direction, _, depth = name.partition("_recall@")
        if depth:
            found.setdefault(direction, []).append((int(depth), score.compute()))
    for (direction, points), colour in zip(found.items(), (CHART_BLUE, CHART_ORANGE), strict=True):
        queries = len(answers.scores[f"{direction}_mrr"].totals)
        draw_points(axes, points, f"{direction.replace('_', ' ')} ({queries:,} queries)", colour)
    axes.set(ylim=(0, 1), xlabel="items looked at (k)", ylabel="recall@k")
    axes.set_xticks(sorted({depth for points in found.values() for depth, _ in points}))
    axes.set_title(f"Right item among the first k, {answers.count:,} rows", loc="left", fontsize=10)
    axes.grid(axis="y", color=CHART_LINE, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_scores(answers: Answers, names: Sequence[str]) -> "Figure":
    """Draws how the scores of single rows are spread."""
    figure, axes = new_figure(3.8 * min(len(names), 3), 3.0, min(len(names), 3))
    for one, name in zip(axes, names, strict=False):
        score = answers.scores[name]
        values = np.asarray(score.transform(score.totals / np.maximum(score.weights, 1)), dtype=float)
        values = values[np.isfinite(values) & (score.weights > 0)]
        one.hist(values, bins=min(30, max(6, len(values) // 4)), color=CHART_BLUE)
        one.set(xlabel=f"{name} of a row", ylabel="rows")
        one.set_title(f"{name} {score.compute():.3g}, {len(values):,} rows", loc="left", fontsize=10)
    return figure
