"""Does training by rewards beat more of the old training, on captions and translations that people wrote?

    python benchmarks/rewards_on_data.py captioning DATA --tower EFFICIENTNET --keep FOLDER
    python benchmarks/rewards_on_data.py translation DATA --start RUN --keep FOLDER

captioning: DATA has train, validation and test.parquet with `image` and `captions`. All rows are tested, by folds: of
the others 100 choose, the rest train. A small decoder before a frozen image tower, whose outputs are computed once, is
trained by cross-entropy for eight epochs, its rate falling to 0, or until the CIDEr-D of the validation rows has not
risen for three; its best epoch is the start. The reward is CIDEr.

translation: DATA has the same three files with `en` and `de`; the start of all seeds is RUN, a finished run of the
recipe translation. The reward is chrF.

From the start, for the same CPU seconds each, and each at the better of two learning rates by the metric of the
validation rows: more cross-entropy, and rewards (five samples at temperature 0.5, compared with one another, and a
tenth of cross-entropy). Texts are greedy, with --beams by beam search too. Starts, and what each seed and fold wrote,
lie in FOLDER and are not done again, so several processes may share the work (`--folds`). Prints the metrics of each,
and the paired differences over test rows and seeds with their 95 % intervals: CIDEr-D with the document frequencies of
all rows, BLEU of the corpus, the others as means over rows. Last line, of greedy texts in the rewarded metric:

    plait rewards on captioning: seeds=3 rows=1000 start=... more=... reward=... difference=... low=... high=...
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from continued_training import CONTINUED, train_at_best_rate
from datasets import Dataset, concatenate_datasets, load_dataset

from plait.training.data.feature_cache import cache_features
from plait.training.metrics.bootstrap import BootstrapValues, Resamples
from plait.training.metrics.cider import cider_d
from plait.training.metrics.text import build_rouge
from plait.training.rewards.functions import SentenceScore
from plait.training.runs.assembly import build_arguments
from plait.training.runs.generation_settings import use_generation_settings
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, build_run

SPLITS = ("train", "validation", "test")
CHOOSING = 100  # rows of a fold that choose the epoch and the rates
RESAMPLES = 2000
REWARD = {"samples": 5, "baseline": "leave_one_out", "temperature": 0.5, "cross_entropy": 0.1}
WIDTH: dict[str, Any] = {
    "hidden_size": 192,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "embedding_scale": 13.9,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.3,
    "attention_dropout": 0.1,
}

Texts = dict[str, list[str]]  # by "greedy" and "beams"


class Study:
    """What is trained on, and how it is measured."""

    name: str
    metric: str  # of the validation rows
    reward: dict[str, float]
    rates: dict[str, tuple[float, ...]]
    more: dict[str, Any]  # training arguments of cross-entropy
    rewarded: dict[str, Any]  # those of rewards
    folds: int  # into which the rows are cut
    keys: dict[str, Any]  # of every recipe
    training: dict[str, Any]  # of every recipe

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tested = range(self.folds) if options.folds is None else options.folds

    @property
    def references(self) -> list[list[str]]:
        """The references of the test rows, fold by fold."""
        raise NotImplementedError

    def prepare(self, folder: Path, seed: int, fold: int) -> tuple[dict[str, str], Path]:
        """Returns the files of the splits, and the folder of the start."""
        raise NotImplementedError

    def measure_texts(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Returns by metric what it is computed from, an array with a row for each text (see `SCORES`)."""
        raise NotImplementedError

    def build(self, folder: Path, source: dict[str, str], training: dict[str, Any], **keys: Any) -> TrainingRun:
        """Builds a run; keys: further ones of the recipe."""
        data = {"source": source, "columns": self.keys["columns"]}
        own = {name: value for name, value in self.keys.items() if name != "columns"}
        content = {"task": "generation", "data": data, "training": {**self.training, **training}, **own, **keys}
        recipe = build_recipe(content)
        return build_run(recipe, folder, build_arguments(recipe, folder))

    def measure(self, run: TrainingRun) -> float:
        """Measures a model on the validation rows."""
        return float(run.trainer.evaluate()[f"eval_{self.metric}"])

    def write(self, run: TrainingRun) -> Texts:
        """Writes the texts of the test rows."""
        test: Any = run.data.test
        texts = {"greedy": list(run.trainer.predict(test).predictions)}
        if self.options.beams > 1:
            with use_generation_settings(run.model, {"num_beams": self.options.beams}):
                texts["beams"] = list(run.trainer.predict(test).predictions)
        return texts

    def run_part(self, seed: int, fold: int, folder: Path) -> dict[str, Texts]:
        """Trains the start, if it is not given, and both arms; returns what they write for the test rows."""
        label, begun = f"{self.name} seed {seed} fold {fold}", time.process_time()

        def tell(arm: str, found: str) -> None:
            print(f"{label} {arm}: {found}; {time.process_time() - begun:.0f} s", flush=True)

        source, start = self.prepare(folder, seed, fold)
        keys = {"model": {"from_pretrained": str(start)}, "seed": seed}
        run = self.build(folder / "none", source, CONTINUED, **keys)
        tell("start", f"{self.metric} {self.measure(run):.4f}")
        found = {"start": self.write(run)}
        reward = {"reward": {**REWARD, "metrics": self.reward}}
        for arm, own, added in (("more", self.more, {}), ("reward", self.rewarded, reward)):

            def build(rate: float, arm: str = arm, own: Any = own, added: Any = added) -> TrainingRun:
                training = {**CONTINUED, **own, "learning_rate": rate}
                return self.build(folder / f"{arm}-{rate}", source, training, **keys, **added)

            best, shown = train_at_best_rate(build, self.rates[arm], self.options.seconds, self.measure)
            tell(arm, shown)
            found[arm] = self.write(best.run)
        return found

    def take_part(self, seed: int, fold: int) -> dict[str, Texts]:
        """Returns what a part wrote: from its file, or, after running it, into its file."""
        file = self.options.keep / f"{self.name}-{seed}-{fold}.json"
        if not file.exists():
            with tempfile.TemporaryDirectory() as folder:
                found = self.run_part(seed, fold, Path(folder))
            file.write_text(json.dumps(found, ensure_ascii=False, indent=1))
        return json.loads(file.read_text())


class Captioning(Study):
    """Captions of photos, by folds over all rows."""

    name, metric, reward, folds = "captioning", "cider", {"cider": 1.0}, 5
    rates = {"more": (3e-4, 1e-4), "reward": (3e-4, 1e-4)}
    more = {"per_device_train_batch_size": 32}
    rewarded = {"per_device_train_batch_size": 16}
    keys = {
        "columns": {"image": "image", "target": "captions"},
        "metrics": ["cider", "chrf", "distinct"],
        "generation": {"max_new_tokens": 24, "do_sample": False, "num_beams": 1},
        "report": False,
    }
    training = {"frozen": ["image"], "cache_features": ["image"], "per_device_eval_batch_size": 100}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.training = {**self.training, "feature_cache_dir": str(options.keep / "features")}

    @cached_property
    def rows(self) -> Dataset:
        """All rows, shuffled."""
        files = {split: str(self.options.data / f"{split}.parquet") for split in SPLITS}
        loaded: Any = load_dataset("parquet", data_files=files)
        return concatenate_datasets([loaded[split] for split in SPLITS]).shuffle(seed=0)

    def select(self, fold: int) -> dict[str, list[int]]:
        """Returns the rows of each split: a fifth is tested, and of the others the first ones choose."""
        test = np.array_split(np.arange(len(self.rows)), self.folds)[fold]
        others = np.setdiff1d(np.arange(len(self.rows)), test)
        others = np.random.default_rng(fold).permutation(others)
        chosen = {"train": others[CHOOSING:], "validation": others[:CHOOSING], "test": test}
        return {split: numbers.tolist() for split, numbers in chosen.items()}

    @cached_property
    def references(self) -> list[list[str]]:
        """The captions of the photos, fold by fold."""
        captions = [list(texts) for texts in self.rows["captions"]]
        return [captions[row] for fold in self.tested for row in self.select(fold)["test"]]

    def prepare(self, folder: Path, seed: int, fold: int) -> tuple[dict[str, str], Path]:
        """Writes the files of a fold and trains its start."""
        source = {split: str(folder / f"{split}.parquet") for split in SPLITS}
        for split, numbers in self.select(fold).items():
            self.rows.select(numbers).to_parquet(source[split])
        start = self.options.keep / "starts" / f"{self.name}-{seed}-{fold}"
        if not start.exists():
            self.train_start(folder / "start", source, seed).rename(start)
        return source, start

    def train_start(self, folder: Path, source: dict[str, str], seed: int) -> Path:
        """Trains a captioner until its CIDEr-D on the validation rows has stopped rising."""
        parts = {"image": str(self.options.tower), "decoder": {"config": {**WIDTH, "num_hidden_layers": 2}}}
        run = self.build(
            folder,
            source,
            START,
            model={**parts, "options": {"initializer_range": 0.05}, "freeze": ["image"]},
            tokenizer={"train": {"vocab_size": 1500, "lowercase": True}},
            settings={"references": "each"},
            seed=seed,
        )
        test: Any = [run.data.test]
        cache_features(run.model, run.processor, test, "image", folder=self.training["feature_cache_dir"])
        run.trainer.train()
        best = self.options.keep / "starts" / f".{folder.parent.name}"
        run.trainer.save_model(str(best))
        print(
            f"stopped after {run.trainer.state.epoch:.0f} epochs, best {run.trainer.state.best_metric:.4f}", flush=True
        )
        return best

    def measure_texts(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Returns CIDEr-D, sentence chrF and ROUGE-L of each row."""
        scorers = {"chrf": SentenceScore("chrf"), "rouge_l": build_rouge("rougeL").score}
        pairs = list(zip(texts, self.references, strict=True))
        beside = {name: np.array([score(*pair) for pair in pairs]) for name, score in scorers.items()}
        return {"cider": cider_d(texts, self.references), **beside}


class Translation(Study):
    """Translations of sentences, from a start that is given."""

    name, metric, reward, folds = "translation", "chrf", {"chrf": 1.0}, 1
    rates = {"more": (3e-4, 1e-4), "reward": (3e-4, 1e-4)}
    more = {"tokens_per_batch": 2000, "label_smoothing_factor": 0.1}
    rewarded = {"per_device_train_batch_size": 16}
    keys = {
        "columns": {"text": "en", "target": "de"},
        "metrics": ["bleu", "chrf"],
        "generation": {"max_new_tokens": 64, "do_sample": False, "num_beams": 1},
        "report": False,
    }
    training = {"weight_decay": 0.01, "adam_beta2": 0.98, "per_device_eval_batch_size": 64}

    @cached_property
    def references(self) -> list[list[str]]:
        """The German sentence of each test row."""
        rows: Any = load_dataset("parquet", data_files=str(self.options.data / "test.parquet"), split="train")
        return [[text] for text in rows["de"]]

    def prepare(self, folder: Path, seed: int, fold: int) -> tuple[dict[str, str], Path]:
        """Returns the files, and the start that was given."""
        return {split: str(self.options.data / f"{split}.parquet") for split in SPLITS}, self.options.start

    def measure_texts(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Returns the counts of BLEU and the sentence chrF of each row."""
        pairs = list(zip(texts, self.references, strict=True))
        chrf = SentenceScore("chrf")
        return {"chrf": np.array([chrf(*pair) for pair in pairs]), "bleu": count_bleu(pairs)}


START: dict[str, Any] = {
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 100,
    "weight_decay": 0.05,
    "label_smoothing_factor": 0.1,
    "per_device_train_batch_size": 32,
    "num_train_epochs": 8,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "cider",
    "early_stopping_patience": 3,
}


def count_bleu(pairs: Sequence[tuple[str, list[str]]]) -> np.ndarray:
    """Counts what BLEU is computed from, (rows, 10): right n-grams and n-grams of length 1 to 4, words, words of the
    reference."""
    metric: Any = SentenceScore("bleu").metric
    found = [metric.sentence_score(text, references) for text, references in pairs]
    return np.array([[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in found], dtype=float)


def compute_bleu(counts: np.ndarray) -> float:
    """Computes BLEU, 0 to 100, of rows of `count_bleu`, without smoothing. Source: Papineni et al. 2002,
    https://aclanthology.org/P02-1040."""
    sums = counts.sum(axis=0)
    right, all_grams, own, wanted = sums[:4], sums[4:8], sums[8], sums[9]
    if not right.all():
        return 0.0
    return float(100 * np.exp(np.log(right / all_grams).mean() + min(0.0, 1 - wanted / own)))


def resample(resamples: Resamples, seeds: Sequence[np.ndarray]) -> BootstrapValues:
    """Computes a metric of the arrays of each seed: BLEU of counts, else the mean of scores."""
    measure = compute_bleu if seeds[0].ndim == 2 else np.mean
    return resamples.compute_values(lambda _, scores: float(measure(scores)), np.zeros(len(seeds[0])), seeds)


def compare(study: Study, parts: Sequence[Sequence[dict[str, Texts]]], decoding: str) -> dict[str, dict[str, Any]]:
    """Returns by metric the values of each arm, and under "difference" that of reward and more cross-entropy with its
    interval. parts: of each seed the folds."""
    count = len(study.references)
    resamples = Resamples(np.arange(count), len(parts), RESAMPLES, seed=0)
    values: dict[str, dict[str, Any]] = {}
    for arm in ("start", "more", "reward"):
        texts = [[text for fold in folds for text in fold[arm][decoding]] for folds in parts]
        scores = [study.measure_texts(each) for each in texts]
        for name in scores[0]:
            values.setdefault(name, {})[arm] = resample(resamples, [each[name] for each in scores])
        values.setdefault("words", {})[arm] = resample(
            resamples, [np.array([float(len(text.split())) for text in each]) for each in texts]
        )
    return {
        name: {**{arm: each.estimate for arm, each in arms.items()}, **differences(arms)}
        for name, arms in values.items()
    }


def differences(arms: dict[str, BootstrapValues]) -> dict[str, Any]:
    """Returns the paired differences of interest."""
    return {
        "difference": arms["reward"].subtract(arms["more"]).interval,
        "more - start": arms["more"].subtract(arms["start"]).interval,
        "reward - start": arms["reward"].subtract(arms["start"]).interval,
    }


def main() -> None:
    """Runs the parts that are missing and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[study.name for study in (Captioning, Translation)])
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, required=True, help="folder of what was written")
    parser.add_argument("--tower", type=Path, help="captioning: the image tower, a checkpoint")
    parser.add_argument("--start", type=Path, help="translation: the run to start from")
    parser.add_argument("--seconds", type=float, default=45, help="CPU seconds of each training after the start")
    parser.add_argument("--beams", type=int, default=1, help="also write by a beam search of this width")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--folds", type=int, nargs="*", help="of captioning: these folds alone")
    options = parser.parse_args()
    study = {each.name: each for each in (Captioning, Translation)}[options.task](options)
    needed = {"captioning": "tower", "translation": "start"}[study.name]
    if getattr(options, needed) is None:
        parser.error(f"{study.name} needs --{needed}")
    options.keep.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first, options.first + options.seeds)
    tell_comparison(study, [[study.take_part(seed, fold) for fold in study.tested] for seed in seeds])


def tell_comparison(study: Study, parts: Sequence[Sequence[dict[str, Texts]]]) -> None:
    """Prints all figures, and last those of the greedy texts in the rewarded metric."""
    for decoding in sorted(parts[0][0]["start"]):  # greedy last
        found = compare(study, parts, decoding)
        for name, values in found.items():
            shown = {
                key: [round(x, 4) for x in value] if isinstance(value, tuple) else round(value, 4)
                for key, value in values.items()
            }
            print(f"{decoding} {name}: {json.dumps(shown)}")
    main_values = found[study.metric]
    means = " ".join(f"{arm}={main_values[arm]:.3f}" for arm in ("start", "more", "reward"))
    interval = " ".join(
        f"{key}={value:.3f}"
        for key, value in zip(("difference", "low", "high"), main_values["difference"], strict=True)
    )
    print(f"plait rewards on {study.name}: seeds={len(parts)} rows={len(study.references)} {means} {interval}")


if __name__ == "__main__":
    main()
