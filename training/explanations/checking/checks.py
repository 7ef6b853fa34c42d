"""The checks of an explanation: curves, redrawn weights, sums, and stability under noise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ....modeling.backbone.pretrained import PlaitPreTrainedModel
from ....processing.audio import read_samples
from ....processing.images import read_image
from ...data.media import Row, list_present
from ...trainer.modality_patterns import has_content
from ..results import Explanation
from .check_report import CheckReport, MethodCheck, estimate_known_mean
from .curves import Ordering, draw_orders, group_by_input, measure_orderings, reorder
from .ranks import Box, correlate_ranks, cover_boxes, points_at
from .redraw import redraw_weights
from .removal import build_removable_parts, choose_replacement, find_item, label_cells

RANDOM_ORDERS = 2
ByRow = dict[str, dict[int, float]]  # modality -> row -> value
ExplainRows = Callable[[str, Sequence[Row]], Explanation]  # method and rows -> explanations of fixed targets


class CheckSetting(NamedTuple):
    """What all checks share: the rows, other rows to take replacements from, boxes of the images of each row (or
    None), and how to score and explain rows."""

    rows: Sequence[Row]
    others: Sequence[Row]
    boxes: Sequence[Sequence[Box]] | None
    score: Callable[[Sequence[Row], Sequence[int]], np.ndarray]
    explain: ExplainRows
    steps: int
    batch_size: int
    seed: int


def check_on_rows(
    model: PlaitPreTrainedModel, setting: CheckSetting, explanations: Mapping[str, Explanation], redraw: bool = True
) -> CheckReport:
    """Checks each method by its explanations of the rows."""
    replacements = choose_replacements(explanations.values())
    correlations = measure_redrawn(model, setting, explanations) if redraw else {}
    checks = []
    for method, explanation in explanations.items():
        stability = measure_stability(setting, method, explanation)
        for check in measure_curves(setting, method, explanation, replacements):
            add_correlations(check, correlations.get(method, {}))
            check.gap = measure_gap(explanation)
            check.stability = estimate_rows(stability, check.modality)
            checks.append(check)
    return CheckReport(checks, len(setting.rows))


def add_correlations(check: MethodCheck, steps: Mapping[str, tuple[ByRow, ByRow]]) -> None:
    """Adds the rank correlations after each redrawn part to the check of one modality."""
    check.redrawn = {part: estimate_rows(signed, check.modality) for part, (signed, _) in steps.items()}
    if steps:
        check.redrawn_sizes = estimate_rows(list(steps.values())[-1][1], check.modality)


def estimate_rows(values: Mapping[str, Mapping[int, float]], modality: str) -> Any:
    """Returns the mean over the rows of one modality, with its interval."""
    return estimate_known_mean(values.get(modality, {}).values())


def choose_replacements(explanations: Any) -> dict[str, str]:
    """Returns for each modality what stands in the place of removed parts: nothing that a method has as its baseline,
    by which it would be measured by its own yardstick."""
    used: dict[str, set[str]] = {}
    for explanation in explanations:
        for row in explanation:
            for name, attribution in row.attributions.items():
                own = explanation.baselines.get(name.partition(".")[0])
                used.setdefault(attribution.modality, set()).update([] if own is None else [own])
    return {modality: choose_replacement(modality, sorted(names)) for modality, names in used.items()}


def list_orderings(setting: CheckSetting, explanation: Explanation, replacements: Mapping[str, str]) -> list[Ordering]:
    """Returns the removable parts of every input of every row, in the order of the explanation's values."""
    orderings = []
    for number, (row, found) in enumerate(zip(setting.rows, explanation, strict=True)):
        for name, attribution in found.attributions.items():
            other = find_other(setting, number, name.partition(".")[0])
            replacement = replacements[attribution.modality]
            orderings.append(Ordering(number, name, build_removable_parts(row, name, attribution, replacement, other)))
    return orderings


def find_other(setting: CheckSetting, number: int, modality: str) -> Row:
    """Returns a random other row that has the modality; an empty one if there is none."""
    order = np.random.default_rng([setting.seed, number]).permutation(len(setting.others))
    own = setting.rows[number]
    rows = (setting.others[int(place)] for place in order)
    found = (row for row in rows if row is not own and (has_content(row.get(modality)) or list_present(row, modality)))
    return next(found, own)


def measure_curves(
    setting: CheckSetting, method: str, explanation: Explanation, replacements: Mapping[str, str]
) -> list[MethodCheck]:
    """Returns a check of each modality, with insertion minus deletion above random, and with boxes the oracle's."""
    orderings = list_orderings(setting, explanation, replacements)
    drawn = draw_orders(orderings, RANDOM_ORDERS, setting.seed)
    chance = score_orderings(setting, [ordering for each in drawn for ordering in each])
    chance = chance.reshape(len(orderings), RANDOM_ORDERS).mean(1)
    above = group_by_input(orderings, score_orderings(setting, orderings) - chance)
    oracle = measure_oracle(setting, orderings, explanation, chance)
    pointing = find_pointing(setting, explanation)
    modalities = {name.partition(".")[0]: a.modality for row in explanation for name, a in row.attributions.items()}
    return [
        MethodCheck(
            method,
            name,
            explanation.baselines.get(name, "none"),
            replacements[kind],
            estimate_rows(above, name),
            estimate_rows(oracle, name),
            estimate_rows(pointing, name),
        )
        for name, kind in modalities.items()
    ]


def score_orderings(setting: CheckSetting, orderings: Sequence[Ordering]) -> np.ndarray:
    """Returns insertion minus deletion of each ordering."""
    return measure_orderings(orderings, setting.score, setting.steps, setting.batch_size)


def measure_oracle(
    setting: CheckSetting, orderings: Sequence[Ordering], explanation: Explanation, chance: np.ndarray
) -> ByRow:
    """Returns insertion minus deletion above random in the order of the boxes; nothing without boxes."""
    boxed = list_oracles(setting, orderings, explanation)
    if not boxed:
        return {}
    places, oracles = [place for place, _ in boxed], [ordering for _, ordering in boxed]
    return dict(group_by_input(oracles, score_orderings(setting, oracles) - chance[places]))


def list_oracles(
    setting: CheckSetting, orderings: Sequence[Ordering], explanation: Explanation
) -> list[tuple[int, Ordering]]:
    """Returns, for each image with boxes, its place among the orderings, and the order of its cells by their share of
    the boxes."""
    found = []
    for place, ordering in enumerate(orderings):
        attribution = explanation[ordering.number].attributions[ordering.name]
        if setting.boxes is None or attribution.modality != "image" or not setting.boxes[ordering.number]:
            continue
        height, width = attribution.values.shape
        covered = cover_boxes(height, width, setting.boxes[ordering.number])
        found.append((place, reorder(ordering, np.bincount(label_cells(height, width).ravel(), covered.ravel()))))
    return found


def find_pointing(setting: CheckSetting, explanation: Explanation) -> ByRow:
    """Returns for each row with boxes whether its image's largest value lies in one of them."""
    if setting.boxes is None:
        return {}
    hits: dict[int, float] = {}
    for number, (boxes, row) in enumerate(zip(setting.boxes, explanation, strict=True)):
        maps = [found.values for found in row.attributions.values() if found.modality == "image"]
        if boxes and maps:
            hits[number] = float(points_at(maps[0], boxes))
    return {"image": hits}


def measure_redrawn(
    model: PlaitPreTrainedModel, setting: CheckSetting, found: Mapping[str, Explanation]
) -> dict[str, dict[str, tuple[ByRow, ByRow]]]:
    """Returns by method and part the rank correlations with the explanations after the weights of this part, and of
    all above it, were redrawn: of the values, and of their sizes."""
    correlations: dict[str, dict[str, tuple[ByRow, ByRow]]] = {method: {} for method in found}
    for part in redraw_weights(model, setting.seed):
        for method, explanation in found.items():
            again = setting.explain(method, setting.rows)
            correlations[method][part] = correlate(explanation, again), correlate(explanation, again, np.abs)
    return correlations


def correlate(one: Explanation, other: Explanation, transform: Callable[[Any], Any] = np.asarray) -> ByRow:
    """Returns the rank correlation of two explanations of the same rows, for every modality and row."""
    values: dict[str, dict[int, list[float]]] = {}
    for number, (first, second) in enumerate(zip(one, other, strict=True)):
        for name in first.attributions:
            pair = (transform(found.attributions[name].values) for found in (first, second))
            values.setdefault(name.partition(".")[0], {}).setdefault(number, []).append(correlate_ranks(*pair))
    return {name: {row: float(np.mean(own)) for row, own in rows.items()} for name, rows in values.items()}


def measure_gap(explanation: Explanation) -> float | None:
    """Returns the median over the rows of |completeness error| / |score - baseline|; None if the method promises no
    sum."""
    gaps = [
        abs(row.completeness_error) / max(abs(row.score - row.baseline_score), 1e-6)
        for row in explanation
        if row.completeness_error is not None
    ]
    return float(np.median(gaps)) if gaps else None


def measure_stability(setting: CheckSetting, method: str, explanation: Explanation) -> ByRow:
    """Returns the rank correlation with the explanations of the same rows under invisible noise; nothing of texts."""
    rows = [add_noise(row, number, setting.seed) for number, row in enumerate(setting.rows)]
    if all(noisy is row for noisy, row in zip(rows, setting.rows, strict=True)):
        return {}
    found = correlate(explanation, setting.explain(method, rows))
    return {name: values for name, values in found.items() if name in NOISE}


def add_noise(row: Row, number: int, seed: int) -> Row:
    """Returns the row with noise of one grey level in its images, and of a thousandth of a clip's volume."""
    generator = np.random.default_rng([seed, number, 1])
    for modality, alter in NOISE.items():
        items = list_present(row, modality)
        if items and modality in row:
            noisy = [alter(find_item(row, f"{modality}.{place}")[0], row, generator) for place in range(len(items))]
            row = {**row, modality: noisy if len(noisy) > 1 else noisy[0]}
            row = {**row, **({f"{modality}_id": None} if f"{modality}_id" in row else {})}
    return row


def alter_image(item: Any, row: Row, generator: np.random.Generator) -> Image.Image:
    """Returns the image with -1, 0 or 1 added to each of its values, of 0..255."""
    pixels = np.asarray(read_image(item)).astype(int)
    return Image.fromarray(np.clip(pixels + generator.integers(-1, 2, pixels.shape), 0, 255).astype(np.uint8))


def alter_clip(item: Any, row: Row, generator: np.random.Generator) -> dict[str, Any]:
    """Returns the clip with noise of a thousandth of its standard deviation (-60 dB)."""
    samples, rate = read_samples(item, row.get("sampling_rate"))
    wave = samples.astype(np.float32)
    noise = generator.standard_normal(wave.shape).astype(np.float32)
    return {"array": wave + noise * float(wave.std()) * 1e-3, "sampling_rate": rate}


NOISE: dict[str, Callable[[Any, Row, np.random.Generator], Any]] = {"image": alter_image, "audio": alter_clip}
