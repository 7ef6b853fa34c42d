"""The keys of a recipe's section `reward`: training by scores of generated texts."""

from dataclasses import dataclass, field
from typing import Literal

from huggingface_hub.dataclasses import strict


@strict
@dataclass
class RewardRecipe:
    """Reinforcement learning of a model that generates: its own samples are scored, and those that score better than
    others of the same row become more likely.

    metrics: the weight of each reward, by name: `cider`, `bleu`, `chrf`, `rouge_l`, `exact_match`, `token_f1`,
        `vqa_accuracy` (all 0 to 1, compared with the row's targets), the folder of a retrieval model (the cosine of the
        text and the row's other side), or `module:function`, called as `function(texts, rows)`. Weight 0: only logged.
    held_out: a metric of texts that is not rewarded, measured beside the recipe's `metrics` (default: one of these that
        is not rewarded, else chrf, token_f1 or another one).
    samples: texts drawn for each row.
    objective: "policy_gradient" (Williams 1992, https://doi.org/10.1007/BF00992696), or "minimum_risk", the expected
        risk over the candidates of a beam search, which draws nothing (Shen et al. 2016, https://arxiv.org/abs/1512.02433).
        For the task dialogue also "grpo" (Shao et al. 2024, https://arxiv.org/abs/2402.03300) and "rloo" (Ahmadian et
        al. 2024), the trainers of those names in the library TRL.
    baseline: of the policy gradient: "leave_one_out", the mean of the row's other samples (Kool et al. 2019; RLOO,
        Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740), "greedy", the reward of the greedy text (self-critical
        training, Rennie et al. 2017, https://arxiv.org/abs/1612.00563), or "none".
    temperature: of the policy: its samples and their probabilities.
    sharpness: of the candidates' probabilities with minimum_risk, p^sharpness normalized over the candidates.
    cross_entropy: weight of the cross-entropy of the target, added to the loss.
    kl: weight of the divergence KL(model || start), in nats a token, added to the loss.
    length_penalty: subtracted from a reward for each token of a text.
    repetition_penalty: subtracted from a reward, times the share of a text's trigrams of words that repeat one.
    workers: processes that compute the rewards (0: none besides the training).
    stop_on_collapse: whether the training ends when the texts collapse: the entropy of a token falls below a tenth of
        the start, the mean length leaves a third to three times that of the start, or the reward rises while the
        metric `held_out` falls by a fifth in an evaluation during training.
    """

    metrics: dict[str, float | int] = field(default_factory=dict)
    held_out: str | None = None
    samples: int = 5
    objective: Literal["policy_gradient", "minimum_risk", "grpo", "rloo"] = "policy_gradient"
    baseline: Literal["leave_one_out", "greedy", "none"] = "leave_one_out"
    temperature: float | int = 1.0
    sharpness: float | int = 1.0
    cross_entropy: float | int = 0.0
    kl: float | int = 0.0
    length_penalty: float | int = 0.0
    repetition_penalty: float | int = 0.0
    workers: int = 0
    stop_on_collapse: bool = True


IN_TRL = ("grpo", "rloo")  # objectives that TRL's trainers learn by
# fields that some objectives do not read
UNREAD = {
    "policy_gradient": ("sharpness",),
    "minimum_risk": ("baseline",),
    "grpo": ("sharpness", "baseline", "cross_entropy"),
    "rloo": ("sharpness", "baseline", "cross_entropy"),
}


def check_reward(reward: RewardRecipe) -> None:
    """Raises ValueError for settings that contradict each other or are out of range."""
    if not reward.metrics or not any(reward.metrics.values()):
        raise ValueError("metrics is empty: name at least one reward and its weight, such as {cider: 1.0}")
    check_unread(reward)
    whole = reward.objective != "policy_gradient"
    if reward.samples < 1 + (whole or reward.baseline == "leave_one_out"):
        compared = reward.objective if whole else f"baseline {reward.baseline}"
        raise ValueError(f"samples is {reward.samples}, but {compared} compares the samples of a row: draw at least 2")
    for name in ("temperature", "sharpness"):
        if getattr(reward, name) <= 0:
            raise ValueError(f"{name} is {getattr(reward, name)}: expected a number above 0")
    for name in ("cross_entropy", "kl", "workers"):
        if getattr(reward, name) < 0:
            raise ValueError(f"{name} is {getattr(reward, name)}: expected 0 or more")


def check_unread(reward: RewardRecipe) -> None:
    """Raises ValueError for a field that is given and that the objective does not read, and for a held-out metric that
    is rewarded."""
    for name in UNREAD[reward.objective]:
        value = getattr(reward, name)
        if value != getattr(RewardRecipe, name):
            raise ValueError(f"{name} is {value}, which the objective {reward.objective} does not read: leave it out")
    if reward.held_out is not None and reward.metrics.get(reward.held_out):
        raise ValueError(f"held_out is {reward.held_out!r}, which is rewarded: name another metric")
