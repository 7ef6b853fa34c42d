"""Metrics of generated text beside independent computations, and the paired bootstrap."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import exp, sqrt
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from plait.training.metrics.bootstrap import paired_bootstrap
from plait.training.metrics.cider import cider_d, split_caption_words
from plait.training.metrics.text import TEXT_METRICS, TextMetrics, build_bleu
from plait.training.metrics.text_answers import (
    exact_match,
    normalize_squad_answer,
    normalize_vqa_answer,
    token_f1,
    vqa_accuracy,
)

GENERATOR = np.random.default_rng(0)
WORDS = (
    "the a man woman dog's red-brown ball, runs jumps jumping (quickly) over two 2 hills; 山 and isn't resting.".split()
)


def sentence(least: int = 4, most: int = 12) -> list[str]:
    return list(GENERATOR.choice(WORDS, GENERATOR.integers(least, most)))


def variation(words: Sequence[str]) -> str:
    """The words with about a fifth of them exchanged."""
    return " ".join(word if GENERATOR.random() < 0.8 else str(GENERATOR.choice(WORDS)) for word in words)


SENTENCES = [sentence() for _ in range(24)]
REFERENCES = [[variation(words) for _ in range(1 + row % 4)] for row, words in enumerate(SENTENCES)]
# a third of the rows is right
PREDICTIONS = [REFERENCES[row][-1] if row % 3 == 0 else variation(words) for row, words in enumerate(SENTENCES)]
THREE = [[variation(words) for _ in range(3)] for words in SENTENCES]
DISTINCT = [[f"number {row} has {row} wings and many feathers"] for row in range(11, 20)]
MAXIMA = {name: 100 if name.startswith(("bleu", "chrf")) else 10 if name == "cider" else 1 for name in TEXT_METRICS}
ROWS = {"rouge1", "rouge2", "rougeL", "rougeLsum", "cider", "exact_match", "token_f1", "vqa_accuracy"}
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
every_metric = pytest.mark.parametrize("name", TEXT_METRICS)


def measured(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    metrics = TextMetrics([name])
    metrics.update(predictions, references)
    return metrics.compute()[name]


@pytest.mark.parametrize(
    ("name", "tokenizer"), [("bleu", "13a"), *((f"bleu_{name}", name) for name in ("char", "intl", "zh", "none"))]
)
def test_bleu_equals_sacrebleu(name: str, tokenizer: str) -> None:
    expected = sacrebleu.corpus_bleu(PREDICTIONS, list(zip(*THREE, strict=True)), tokenize=tokenizer).score
    assert 5 < expected < 95
    assert measured(name, PREDICTIONS, THREE) == pytest.approx(expected, abs=1e-9)


def test_chrf_equals_sacrebleu() -> None:
    expected = sacrebleu.corpus_chrf(PREDICTIONS, list(zip(*THREE, strict=True))).score
    assert 5 < expected < 95
    assert measured("chrf", PREDICTIONS, THREE) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in TEXT_METRICS if name not in {"cider", "vqa_accuracy", "distinct"}])
def test_the_number_of_references_may_differ_from_row_to_row(name: str) -> None:
    filled = [[*row, *(row[0] for _ in range(4 - len(row)))] for row in REFERENCES]
    assert measured(name, PREDICTIONS, REFERENCES) == pytest.approx(measured(name, PREDICTIONS, filled), abs=1e-9)
    assert measured(name, PREDICTIONS, REFERENCES) > measured(name, PREDICTIONS, [row[:1] for row in REFERENCES])


def test_signatures_say_how_bleu_was_computed() -> None:
    metrics = TextMetrics(["bleu", "bleu_intl", "cider"])
    metrics.update(PREDICTIONS, THREE)
    metrics.compute()
    signatures = metrics.collect_signatures()
    assert set(signatures) == {"bleu", "bleu_intl"}
    assert {"nrefs:3", "tok:13a", f"version:{sacrebleu.__version__}"} <= set(signatures["bleu"].split("|"))
    assert "tok:intl" in signatures["bleu_intl"].split("|")


def test_bleu_has_no_signature_before_it_is_computed() -> None:
    with pytest.raises(ValueError, match="references"):
        build_bleu().signature  # noqa: B018


def test_an_unknown_tokenizer_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no sacrebleu tokenizer 'chars'; did you mean 'char'"):
        build_bleu(tokenizer="chars")


@pytest.mark.parametrize("name", ROUGE)
def test_rouge_is_that_of_the_best_reference(name: str) -> None:
    scorer = RougeScorer([name])
    best = [max(scorer.score(r, p)[name].fmeasure for r in row) for p, row in zip(PREDICTIONS, REFERENCES, strict=True)]
    metrics = TextMetrics([name])
    metrics.update(PREDICTIONS, REFERENCES)
    assert len(set(best)) > 9
    assert metrics.compute_per_row()[name] == pytest.approx(best)


def test_rouge_by_hand() -> None:
    # of four and three words two, of three and two pairs one
    values = {name: measured(name, ["the cat sat down"], [["the cat ran"]]) for name in ROUGE}
    assert values == pytest.approx({"rouge1": 4 / 7, "rouge2": 2 / 5, "rougeL": 4 / 7, "rougeLsum": 4 / 7})


def test_the_order_of_lines_counts_for_rouge_l_and_not_for_rouge_lsum() -> None:
    assert measured("rougeL", ["red dog\nblue cat"], [["blue cat\nred dog"]]) == pytest.approx(0.5)
    assert measured("rougeLsum", ["red dog\nblue cat"], [["blue cat\nred dog"]]) == pytest.approx(1)


def dense_cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D with one dense vector a caption over all n-grams of the corpus."""

    def grams(text: str, n: int) -> Counter[str]:
        words = split_caption_words(text)
        return Counter(" ".join(words[start : start + n]) for start in range(len(words) - n + 1))

    total = np.zeros(len(predictions))
    for n in (1, 2, 3, 4):
        sets = [set().union(*(grams(text, n) for text in row)) for row in references]
        vocabulary = sorted(set().union(*sets, *(grams(text, n) for text in predictions)))
        frequency = np.array([max(1, sum(gram in row for row in sets)) for gram in vocabulary])
        idf = np.log(len(references)) - np.log(frequency)
        for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
            for answer in answers:
                counts = grams(prediction, n), grams(answer, n)
                g, h = (idf * [count[gram] for gram in vocabulary] for count in counts)
                gap = len(split_caption_words(prediction)) - len(split_caption_words(answer))
                norm = np.linalg.norm(g) * np.linalg.norm(h)
                cosine = np.minimum(g, h) @ h / norm if norm else 0
                total[row] += 10 / 4 / len(answers) * exp(-(gap**2) / 72) * cosine
    return total.tolist()


def test_cider_equals_its_equation_on_dense_vectors() -> None:
    scores = cider_d(PREDICTIONS, REFERENCES)
    assert len(set(scores)) > 9
    assert scores == pytest.approx(dense_cider(PREDICTIONS, REFERENCES), abs=1e-9)


def test_cider_equals_the_coco_evaluation() -> None:
    oracle = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    truth = {row: [" ".join(split_caption_words(text)) for text in texts] for row, texts in enumerate(REFERENCES)}
    said = {row: [" ".join(split_caption_words(text))] for row, text in enumerate(PREDICTIONS)}
    mean, rows = oracle.compute_score(truth, said)
    assert measured("cider", PREDICTIONS, REFERENCES) == pytest.approx(mean, abs=1e-9)
    assert cider_d(PREDICTIONS, REFERENCES) == pytest.approx(rows, abs=1e-9)


def test_cider_by_hand() -> None:
    references = [["red cat"], ["red dog"]]
    # "red" is in every row and weighs nothing; of one-word and two-word n-grams all agree, longer ones there are none
    assert cider_d(["red cat", "red cat"], references).tolist() == pytest.approx([5, 0])
    # "cat" twice earns once; "red cat" is one of two pairs; one word too many
    assert cider_d(["red cat cat", "a"], references)[0] == pytest.approx(10 * (1 / 2 + 1 / sqrt(2)) / 4 * exp(-1 / 72))
    assert cider_d(["red cat", "a"], [["red cat", "blue sky"], ["red dog"]])[0] == pytest.approx(2.5)


def test_one_row_has_no_rare_words() -> None:
    assert measured("cider", ["a red cat sleeps"], [["a red cat sleeps"]]) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "A man (in a hat) isn't riding the dog's t-shirt.",
            "a man -lrb- in a hat -rrb- is n't riding the dog 's t-shirt",
        ),
        ("Black-and-white: 2 men can't wait; they cannot!", "black-and-white 2 men ca n't wait they can not"),
        ("The sign reads \"STOP\" and 'GO' -- really?", "the sign reads stop and go really"),
        ("A $5.00 bill & 1,000 men at 3:30 p.m.", "a $ 5.00 bill & 1,000 men at 3:30 p.m."),
        ("Dr. Smith's house.", "dr. smith 's house"),
        ("the dogs' bowl in '90s, 5 o'clock ... well…", "the dogs bowl in '90s 5 o'clock well"),
        ("Two “tall” people – don’t  walk", "two tall people do n't walk"),
        ("", ""),
    ],
)
def test_captions_are_split_as_by_the_coco_evaluation(text: str, words: str) -> None:
    assert split_caption_words(text) == words.split()


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel  tower"], 1, 1),
        ("the big red tower", ["a red house", "tower"], 0, 1 / 2),
        ("red red house", ["red house house"], 0, 2 / 3),
        ("athena", ["theatre"], 0, 0),
        ("", ["answer"], 0, 0),
        ("", [""], 1, 1),
        ("in the 1990's", ["1990s", "in 1990s"], 1, 1),
    ],
)
def test_squad_by_hand(prediction: str, references: list[str], exact: float, f1: float) -> None:
    assert exact_match(prediction, references) == exact
    assert token_f1(prediction, references) == pytest.approx(f1)


def test_token_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    scores = []
    for prediction, (reference, *_) in zip(PREDICTIONS, REFERENCES, strict=True):
        said, truth = normalize_squad_answer(prediction).split(), normalize_squad_answer(reference).split()
        shared = sum(min(said.count(word), truth.count(word)) for word in set(said))
        precision, recall = shared / len(said), shared / len(truth)
        scores.append(token_f1(prediction, [reference]))
        assert scores[-1] == pytest.approx(2 * precision * recall / (precision + recall))
    assert len(set(scores)) > 5


@pytest.mark.parametrize("matches", range(11))
def test_vqa_accuracy_is_the_mean_over_nine_of_ten_humans(matches: int) -> None:
    answers = ["two"] * matches + ["blue"] * (10 - matches)
    nines = [min(Counter(nine)["two"] / 3, 1) for nine in combinations(answers, 9)]
    assert vqa_accuracy("2", answers) == pytest.approx(sum(nines) / 10)


@pytest.mark.parametrize(
    ("references", "accuracy"),
    [(["red"], 1), (["blue"], 0), (["red", "blue"], 1 / 2), (["red", "red"], 1)]
    + [(["red"] * matches + ["blue"] * (5 - matches), min(matches / 3, 1)) for matches in range(6)],
)
def test_with_fewer_humans_three_or_all_are_enough(references: list[str], accuracy: float) -> None:
    assert vqa_accuracy("The red.", references) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The Two dogs.", "2 dogs"),
        ("None", "0"),
        ("dont know", "don't know"),
        ("he'dve", "he'd've"),
        ("weve\nseen\tit", "we've seen it"),
        ("lets go", "lets go"),
        ("somebody'd", "somebodyd"),
        ("black/white", "black white"),
        ("t-shirt - red", "tshirt red"),
        ("1,000", "1000"),
        ("3.5 ft.", "3.5 ft"),
        ("U.S.", "us"),
        ("(left) side", "left side"),
        ("what?!", "what"),
        ("dog's", "dog's"),
        ("an", ""),
    ],
)
def test_vqa_answers_are_normalised_as_officially(text: str, answer: str) -> None:
    assert normalize_vqa_answer(text) == answer


def test_distinct_shows_a_model_that_always_says_the_same() -> None:
    assert measured("distinct", ["a man"] * 4, THREE[:4]) == 1 / 4
    assert measured("distinct", ["a man", "a dog", "a man", "A man"], THREE[:4]) == 3 / 4


@every_metric
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    order = GENERATOR.permutation(len(PREDICTIONS))
    turned = measured(name, [PREDICTIONS[row] for row in order], [REFERENCES[row] for row in order])
    assert turned == pytest.approx(measured(name, PREDICTIONS, REFERENCES), rel=1e-12)


@every_metric
def test_batches_equal_the_whole(name: str) -> None:
    metrics = TextMetrics([name])
    for start, stop in ((0, 1), (1, 10), (10, 10), (10, 24)):
        metrics.update(PREDICTIONS[start:stop], REFERENCES[start:stop])
    assert metrics.compute()[name] == measured(name, PREDICTIONS, REFERENCES)
    assert metrics.compute()[name] == measured(name, PREDICTIONS, REFERENCES)


@every_metric
def test_the_references_themselves_score_the_maximum_and_one_for_all_less(name: str) -> None:
    predictions = [row[0] for row in DISTINCT]
    assert measured(name, predictions, DISTINCT) == pytest.approx(MAXIMA[name])
    assert measured(name, predictions[:1] * len(predictions), DISTINCT) < 0.9 * MAXIMA[name]


@pytest.mark.parametrize("name", [name for name in TEXT_METRICS if name != "distinct"])
def test_saying_nothing_scores_zero(name: str) -> None:
    assert measured(name, [""] * len(THREE), THREE) == 0
    assert measured(name, ["", *PREDICTIONS[1:]], THREE) > 0


def test_several_metrics_equal_each_alone() -> None:
    metrics = TextMetrics(list(TEXT_METRICS))
    metrics.update(PREDICTIONS, REFERENCES)
    assert metrics.compute() == {name: measured(name, PREDICTIONS, REFERENCES) for name in TEXT_METRICS}


def test_rows_are_in_order_and_their_mean_is_the_metric() -> None:
    metrics = TextMetrics(list(TEXT_METRICS))
    metrics.update(PREDICTIONS[:10], REFERENCES[:10])
    metrics.update(["", *PREDICTIONS[11:]], REFERENCES[10:])
    rows, values = metrics.compute_per_row(), metrics.compute()
    assert set(rows) == ROWS
    assert {name: float(scores.mean()) for name, scores in rows.items()} == {name: values[name] for name in ROWS}
    assert {len(scores) for scores in rows.values()} == {24}
    assert not [name for name, scores in rows.items() if scores[10]]


@every_metric
def test_no_rows_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="no rows"):
        TextMetrics([name]).compute()


@every_metric
def test_a_wrong_batch_is_an_error_and_adds_nothing(name: str) -> None:
    metrics = TextMetrics([name])
    metrics.update(PREDICTIONS, REFERENCES)
    before = metrics.compute()
    with pytest.raises(ValueError, match="3 predictions, but references for 2 rows"):
        metrics.update(["a", "b", "c"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="row 1 of the batch has no reference"):
        metrics.update(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="row 0 of the batch: .*'a red dog'"):
        metrics.update(["a", "b"], ["a red dog", "a cat"])
    assert metrics.compute() == before


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no text metric 'rogue1'; did you mean 'rouge1'\?"):
        TextMetrics(["cider", "rogue1"])


@pytest.mark.parametrize(("name", "package"), [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rougeL", "rouge_score")])
def test_a_missing_package_says_what_to_install(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for module in [module for module in sys.modules if module.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ImportError, match=rf"{package}: pip install plait\[text\]"):
        TextMetrics([name])


@pytest.mark.slow
def test_sacrebleu_and_rouge_are_imported_when_first_needed(tmp_path: Path) -> None:
    lines = (
        "import sys, plait.training.metrics.text as t",
        "def loaded(): return sorted({'sacrebleu', 'rouge_score', 'nltk'} & set(sys.modules))",
        "t.TextMetrics(['cider', 'vqa_accuracy']); print(loaded())",
        "t.TextMetrics(['bleu']); print(loaded())",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert printed.splitlines()[-2:] == ["[]", "['sacrebleu']"]


def test_the_bootstrap_finds_a_planted_difference() -> None:
    generator = np.random.default_rng(1)
    difficulty, noise = generator.normal(size=400), generator.normal(0, 0.2, size=400)
    interval = paired_bootstrap(difficulty + 0.1 + noise, difficulty, resamples=2000)
    assert 0 < interval.low < 0.1 < interval.high
    assert interval.value == pytest.approx((0.1 + noise).mean())
    # what the paired rows share does not widen the interval, which is nearly the normal distribution's
    half = 1.96 * noise.std() / 20
    assert interval.high - interval.value == pytest.approx(half, rel=0.1)
    assert interval.value - interval.low == pytest.approx(half, rel=0.1)


def test_the_bootstrap_covers_zero_for_equal_systems_in_about_95_of_100() -> None:
    generator = np.random.default_rng(2)
    pairs = generator.normal(size=(200, 2, 100))
    intervals = [
        paired_bootstrap(first, second, resamples=400, seed=seed) for seed, (first, second) in enumerate(pairs)
    ]
    assert 0.9 <= np.mean([interval.low <= 0 <= interval.high for interval in intervals]) <= 0.99
    assert paired_bootstrap(pairs[0, 0], pairs[0, 0], resamples=10) == (0, 0, 0)


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    first, second = GENERATOR.random((2, 50))
    assert paired_bootstrap(first, second, 100, seed=3) == paired_bootstrap(first, second, 100, seed=3)
    assert paired_bootstrap(first, second, 100, seed=3) != paired_bootstrap(first, second, 100, seed=4)
    there, back = paired_bootstrap(first, second, 100), paired_bootstrap(second, first, 100)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


@pytest.mark.parametrize(("first", "second"), [((3,), (4,)), ((0,), (0,)), ((2, 3), (2, 3))])
def test_the_bootstrap_needs_two_equal_columns(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"equal length, not \("):
        paired_bootstrap(np.zeros(first), np.zeros(second))
