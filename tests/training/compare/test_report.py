"""The page of a comparison, from plain values."""

import copy
from typing import Any

import pytest

from plait.training.compare.report import render_ablation, render_answer, render_body, render_notes, render_table


def interval(value: float, spread: float = 0.125) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def build_row(name: str, value: float, gain: float) -> dict[str, Any]:
    metrics = {"accuracy": value, "f1_macro": value / 2}
    return {"name": name, **interval(value), "gain": interval(gain), "metrics": metrics, "trainable": 12345} | {
        "seconds": 6.25
    }


CONTENT: dict[str, Any] = {
    "metric": "accuracy", "rows": 4000, "groups": 1500, "folds": 5, "seeds": [0, 7], "bootstrap": 200,
    "best_single": "text", "best_fusion": "early", "fusion_minus_single": interval(0.25), "verdict": "fusion helps",
    "chosen_elsewhere": interval(-0.5), "majority": 0.375,
    "systems": [build_row("text", 0.5, 0.0), build_row("image", 0.25, -0.25), build_row("early", 0.75, 0.25)],
    "audit": {"early": {
        "only text": {**interval(0.5), "lost": interval(0.25), "single": "text", "gain": interval(0.0)},
        "only text + image": {**interval(0.75), "lost": interval(0.0)},
        "shuffled text": {**interval(0.4), "lost": interval(0.35)},
        "blank image": {**interval(0.6), "lost": interval(0.15)},
    }},
}  # fmt: skip


def change(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CONTENT), **fields}


def test_the_answer_names_both_and_their_difference() -> None:
    whole = render_answer(CONTENT)
    assert whole.startswith(
        "**Fusion helps**: early (best fusion) - text (best single modality) = +0.2500 [+0.1250, +0."
    )
    assert whole.endswith("accuracy. Both chosen for each fold on the other folds: -0.5000 [-0.6250, -0.3750].")
    assert render_answer(change(chosen_elsewhere=None)).endswith("[+0.1250, +0.3750] accuracy.")


def test_a_row_for_each_system_and_the_majority() -> None:
    lines = render_table(CONTENT).splitlines()
    assert lines[0] == "| system | accuracy | gain over text | f1_macro | trained parameters | seconds a training |"
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert lines[2] == "| text | 0.5000 [0.3750, 0.6250] | - | 0.2500 | 12,345 | 6.2 |"
    assert lines[4] == "| early | 0.7500 [0.6250, 0.8750] | +0.2500 [+0.1250, +0.3750] | 0.3750 | 12,345 | 6.2 |"
    assert lines[5] == "| always the majority | 0.3750 | - | - | - | - |" and len(lines) == 6
    assert len(render_table(change(majority=None)).splitlines()) == 5
    assert render_table(change(majority=0.0)).splitlines()[5].startswith("| always the majority | 0.0000 |")


@pytest.mark.parametrize(("seeds", "said"), [([0], False), ([0, 7], True)])
def test_notes_say_how_it_was_measured(seeds: list[int], said: bool) -> None:
    notes = render_notes(change(seeds=seeds))
    assert notes.startswith("5 folds: every row is tested once") and f"seeds {', '.join(map(str, seeds))}." in notes
    assert "(200 resamples of 1,500 groups of test rows" in notes and ("and of the seeds" in notes) is said
    assert render_notes(change(folds=None)).startswith("test split; seeds 0, 7.")


def test_the_audit_shows_variations_and_missing_modalities() -> None:
    lines = render_ablation(CONTENT).splitlines()
    assert "| system | as it is | shuffled text | blank image |" in lines and "| --- | --- | --- | --- |" in lines
    assert "| early | 0.7500 | 0.4000 [0.2750, 0.5250] | 0.6000 [0.4750, 0.7250] |" in lines
    assert "| system | present | accuracy | lost | gain over the best single that is present |" in lines
    present = [line for line in lines if line.startswith("| early | text")]
    gains = ("+0.2500 [+0.1250, +0.3750] | +0.0000 [-0.1250, +0.1250] (text)", "+0.0000 [-0.1250, +0.1250] | -")
    assert [line.partition("] | ")[2] for line in present] == [f"{gain} |" for gain in gains]
    assert present[0].startswith("| early | text | 0.5000 [") and present[1].startswith("| early | text + image | 0.7")
    assert render_ablation(change(audit={})) == ""
    body = render_body(CONTENT)
    for part in (render_answer(CONTENT), render_table(CONTENT), render_notes(CONTENT), render_ablation(CONTENT)):
        assert part in body
