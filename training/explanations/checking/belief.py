"""`plait.check_explanations`: which explanations of this model, on these rows, can be believed."""

from collections.abc import Mapping, Sequence
from typing import Any

from ....modeling.attribution.methods import METHODS
from ....processing import PlaitProcessor
from ...data.media import Row
from ..explain import explain
from ..results import Explanation
from ..scoring import RowScorer
from .check_report import CheckReport
from .checks import CheckSetting, check_on_rows
from .ranks import Box

SEPARATOR = "/"  # between a method and its baseline


def check_explanations(
    model: Any,
    processor: PlaitProcessor,
    rows: Sequence[Row],
    methods: Sequence[str] | None = None,
    target: Any = None,
    *,
    boxes: Sequence[Sequence[Box]] | None = None,
    background: Sequence[Row] | None = None,
    steps: int = 8,
    redraw: bool = True,
    batch_size: int = 64,
    max_length: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> CheckReport:
    """Checks which explanations of this model can be believed, on these rows: whether the parts that a method names
    change the score more than random ones (Petsiuk et al. 2018), whether its values depend on the weights (Adebayo et
    al. 2018), add up, and stay under invisible noise.

    What the test puts in the place of removed parts is never the baseline of a checked method. The weights are redrawn
    in place, and given back.

        report = plait.check_explanations(model, processor, rows)
        print(report.format_table())
        explanation = plait.explain(model, processor, rows, **report.best_arguments)

    Args:
        model, processor, rows, target, max_length: as in `plait.explain`; at least two rows, better fifty.
        methods: names of methods, with a baseline of all modalities that have it after a slash, "occlusion/rows";
            None: all methods that the model allows.
        boxes: for each row the boxes of its image that hold the reason, (left, top, right, bottom) in pixels, if they
            are known: then the oracle's order is measured too.
        background: other rows, to take replacements from; None: `rows`.
        steps: of a deletion or insertion curve at most.
        redraw: whether to redraw the weights, which explains all rows once more for each part of the model.
        batch_size: rows that are scored at once.
        seed: of random orders, weights and noise.
        settings: of the methods, as in `plait.explain`.

    Raises:
        ValueError: no rows, an unknown method or target, or boxes for another number of rows.
    """
    given = list(rows)
    if not given or (boxes is not None and len(boxes) != len(given)):
        raise ValueError(f"{len(given)} rows with boxes of {len(boxes or ())}: give rows, and boxes of each or none")
    scorer = RowScorer(model, processor, given, target, batch_size, max_length)

    def explain_again(method: str, chosen: Sequence[Row]) -> Explanation:
        name, _, baseline = method.partition(SEPARATOR)
        options = {**settings, "max_length": max_length}
        return explain(model, processor, chosen, list(scorer.wanted), name, baseline or None, **options)

    setting = CheckSetting(
        given,
        given if background is None else background,
        boxes,
        scorer.score_probability,
        explain_again,
        steps,
        batch_size,
        seed,
    )
    explanations, skipped = explain_by_methods(setting, methods)
    report = check_on_rows(model, setting, explanations, redraw)
    report.skipped = skipped
    return report


def explain_by_methods(
    setting: CheckSetting, methods: Sequence[str] | None
) -> tuple[Mapping[str, Explanation], dict[str, str]]:
    """Returns the explanations by each method, and why methods that were not asked for by name are left out: the model
    has no gradients, or a package is missing."""
    found: dict[str, Explanation] = {}
    skipped: dict[str, str] = {}
    for method in METHODS if methods is None else methods:
        try:
            found[method] = setting.explain(method, setting.rows)
        except (ImportError, ValueError) as error:
            if methods is not None or (method == list(METHODS)[-1] and not found):
                raise
            skipped[method] = str(error)
    return found, skipped
