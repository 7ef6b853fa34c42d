"""`plait.explain_modalities`: what each modality of a row adds to the score of the model's answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers.utils import logging

from ...processing import PlaitProcessor
from ...processing.calls import call_tokenizer
from ..data.media import Row
from ..tasks.registry import find_class_task
from .coalitions import Absence, AbsentRows, Grouping, find_players
from .games import RowGames
from .modality_report import UNTRAINED, ModalityReport, PlayerValues
from .scoring import TARGET_COLUMNS, RowScorer

logger = logging.get_logger(__name__)


def explain_modalities(
    model: Any,
    processor: PlaitProcessor,
    rows: Sequence[Row],
    target: Any = None,
    absence: Absence = "shuffled",
    *,
    by: Grouping = "modality",
    background: Sequence[Row] | None = None,
    draws: int = 4,
    exact_players: int = 6,
    permutations: int = 64,
    batch_size: int = 64,
    max_length: int | None = None,
    seed: int = 0,
) -> ModalityReport:
    """Computes what each modality adds to the score of each row's answer, and what only two together add.

    Exact Shapley values: the score of every subset of the row's modalities, 2 ** M of them. With the column `label`
    also in points of accuracy (the perceptual score of Gat et al. 2021, https://arxiv.org/abs/2110.14375, and its
    Shapley values).

        report = plait.explain_modalities(model, processor, rows)
        print(report.describe())  # text 62 % [58, 66], image 31 % [28, 34], together 7 % [6, 8]
        print(report.format_table())

    Args:
        model, processor, target: as in `plait.explain`.
        rows: dicts with the columns of the model's task; a row may lack modalities.
        absence: what an absent modality is. "shuffled": its value in other rows, the mean over `draws` of them; needs
            no special training. "blank": an input without content. "absent": none, which only a model that was trained
            with missing modalities knows; it warns about others.
        by: "modality", or "column": each column by itself, such as image.0 and image.1.
        background: the other rows; None: `rows`.
        exact_players: above this number of modalities (or columns) in a row the values are estimated, with a standard
            error, from `permutations` random orders (Castro et al. 2009).
        batch_size: rows that are computed at once.
        max_length: the largest number of tokens of a text.
        seed: of random choices.

    Raises:
        RecipeError: no rows, a row without any modality, no other rows, or an unknown `absence` or `by`.
        ValueError: a target that the model does not have.
        ArithmeticError: scores that are not finite.
    """
    given = [rows] if isinstance(rows, Mapping) else list(rows)
    players = find_model_players(model, given, by)
    absent = AbsentRows(given, players, absence, background, draws, seed, find_blank_text(processor))
    trained = is_trained_with_missing(model)
    if absence == "absent" and not trained:
        logger.warning(UNTRAINED)
    scorer = RowScorer(model, processor, given, target, batch_size, max_length)
    games = RowGames(absent, exact_players, permutations)
    games.play(scorer, batch_size)
    nats = games.compute("nats" if scorer.kind not in ("value", "pair") else "score", 0)
    metric = None if scorer.metric is None else select_known(games.compute(scorer.metric, 1, check=False))
    used = draws if absence != "blank" else 1
    return ModalityReport(tuple(players), nats, metric, absence, used, games.exact, trained, scorer.names)


def find_model_players(model: Any, rows: Sequence[Row], by: Grouping) -> dict[str, list[str]]:
    """Returns the players that the rows have for this model, without the column in which the target lies."""
    task = find_class_task(type(model).__name__)
    if task is None:
        raise ValueError(f"{type(model).__name__} has no task: load the folder as the class of its task")
    fixed = {column for kind, column in TARGET_COLUMNS.items() if isinstance(model, kind)}
    return {name: columns for name, columns in find_players(rows, task, by).items() if name not in fixed}


def find_blank_text(processor: PlaitProcessor) -> str:
    """Returns the text without content: "" or, if the tokenizer has no token for it, so that a model would be told that
    there is no text at all, its mask or unknown token."""
    tokenizer = processor.find_part("tokenizer")
    if tokenizer is None or len(call_tokenizer(tokenizer, "")["input_ids"]):
        return ""
    return tokenizer.mask_token or tokenizer.unk_token or tokenizer.eos_token or ""


def is_trained_with_missing(model: Any) -> bool:
    """Returns whether the config says that training left out modalities: `fusion_config.modality_dropout`, or the
    `condition_dropout` of a denoiser. Data with empty cells are not known to it."""
    fusion, denoiser = model.config.fusion_config, model.config.denoiser_config
    return bool(fusion is not None and fusion.modality_dropout) or bool(
        denoiser is not None and denoiser.hides_conditions
    )


def select_known(values: PlayerValues) -> PlayerValues | None:
    """Returns the values of a metric; None if no row has a label."""
    return None if np.isnan(values.whole).all() else values
