"""What each modality adds to the answers: the values of every row, and their means over a data set with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics.bootstrap import Interval
from ..metrics.images.intervals import estimate_mean

ALL = "all"


@dataclass
class PlayerValues:
    """Values of players in one unit.

    Attributes:
        unit: "nats", the unit of a score without logarithm, or the name of a metric, in points (hundredths).
        shapley: (rows, players) what each adds; NaN where the row does not have it. They sum to `whole` - `empty`.
        main: (rows, players) what each adds alone, without its half of the interactions; all NaN if not known.
        interactions: (rows,) by pair of players, "text + image": what only both together add.
        errors: (rows, players) standard errors of `shapley`, 0 where the values are exact.
        whole, empty: (rows,) the value of the row, and that of none of its players.
        removed: (rows, players) `whole` minus the value without the player: the perceptual score.
    """

    unit: str
    shapley: np.ndarray
    main: np.ndarray
    interactions: dict[str, np.ndarray]
    errors: np.ndarray
    whole: np.ndarray
    empty: np.ndarray
    removed: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values; NaN becomes None."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        pairs = {name: list_values(value) for name, value in self.interactions.items()}
        return {"unit": self.unit, **{k: list_values(v) for k, v in arrays.items()}, "interactions": pairs}


def list_values(values: np.ndarray) -> list[Any]:
    """Returns an array as nested lists, NaN as None."""
    plain = values.astype(object)
    plain[np.isnan(values)] = None
    return plain.tolist()


@dataclass
class ModalityReport:
    """What each modality adds to the score of a model's answers, by row and over all rows.

    Attributes:
        players: the modalities (or columns).
        nats: in the score's own unit, nats unless the model predicts numbers or similarities.
        metric: in points of a metric; None if the rows have no labels.
        absence, draws: what absent means, and over how many other rows it is averaged.
        exact: whether every coalition was computed; otherwise random orders of the players, and no interactions.
        trained_with_missing: whether the model was trained with missing modalities (see `hides_modalities`).
        targets: what was explained in each row.
    """

    players: tuple[str, ...]
    nats: PlayerValues
    metric: PlayerValues | None
    absence: str
    draws: int
    exact: bool
    trained_with_missing: bool
    targets: list[str]

    def __len__(self) -> int:
        return len(self.nats.whole)

    def compute_mean(self, values: np.ndarray) -> Interval | None:
        """Returns the mean over the rows that have a value, with its 95 % bootstrap interval; None without any."""
        known = values[~np.isnan(values)]
        return estimate_mean(known) if known.size else None

    def compute_shares(self) -> dict[str, Interval]:
        """Returns MM-SHAP of each player: |phi_i| / sum of all |phi_j|, the mean over the rows, 0 to 1.

        Rows in which no player adds anything are left out. Source: Parcalabescu & Frank 2023,
        https://aclanthology.org/2023.acl-long.223.
        """
        values = dict(zip(self.players, self.nats.shapley.T, strict=True))
        return self._share(values)

    def compute_decomposition(self) -> dict[str, Interval]:
        """Returns the shares of what each player adds alone and of what each pair adds together, 0 to 1; only what
        each adds, with its part of the interactions, if the values are sampled."""
        if not self.exact:
            return self.compute_shares()
        values = dict(zip(self.players, self.nats.main.T, strict=True))
        return self._share({**values, **self.nats.interactions})

    def _share(self, values: dict[str, np.ndarray]) -> dict[str, Interval]:
        sizes = {name: np.abs(value) for name, value in values.items()}
        total = np.nansum(list(sizes.values()), axis=0)
        shares = {
            name: np.where(total > 0, size, np.nan) / np.where(total > 0, total, 1) for name, size in sizes.items()
        }
        found = {name: self.compute_mean(share) for name, share in shares.items()}
        return {name: interval for name, interval in found.items() if interval is not None}

    def describe(self) -> str:
        """Returns the decomposition in one line: "text 62 % [60, 64], image 31 % [..], together 7 % [..]"."""
        shares = self.compute_decomposition()
        names = {
            name: "together" if len(self.nats.interactions) == 1 and name not in self.players else name
            for name in shares
        }
        if not shares:
            return f"none of {', '.join(self.players)} adds anything"
        return ", ".join(f"{names[name]} {format_percent(share)}" for name, share in shares.items())

    def format_table(self) -> str:
        """Returns a Markdown table with a row for each modality and pair, and how it was measured."""
        points = self.metric
        heads = ["", f"adds ({self.nats.unit})", "share", "alone or together"]
        heads += [] if points is None else [f"{points.unit} points", f"lost without it ({points.unit} points)"]
        lines = [format_line(heads), format_line(["---"] * len(heads))]
        shares, parts = self.compute_shares(), self.compute_decomposition()
        for number, name in enumerate(self.players):
            cells = [self._format_mean(self.nats.shapley[:, number]), format_percent(shares.get(name))]
            cells.append(format_percent(parts.get(name)) if self.exact else "-")
            if points is not None:
                cells += [self._format_mean(values[:, number], 100) for values in (points.shapley, points.removed)]
            lines.append(format_line([name, *cells]))
        for name, values in self.nats.interactions.items():
            cells = [self._format_mean(values), "-", format_percent(parts.get(name))]
            cells += [] if points is None else [self._format_mean(points.interactions[name], 100), "-"]
            lines.append(format_line([f"{name}, together", *cells]))
        lines.append(format_line(["all", *self._format_whole(len(heads) - 1)]))
        return "\n".join([*lines, "", self.describe_measurement()])

    def _format_whole(self, cells: int) -> list[str]:
        found = [self._format_mean(self.nats.whole - self.nats.empty), "-", "-"]
        if self.metric is not None:
            found += [self._format_mean(self.metric.whole - self.metric.empty, 100), "-"]
        return found[:cells]

    def _format_mean(self, values: np.ndarray, scale: float = 1.0) -> str:
        found = self.compute_mean(values * scale)
        return "-" if found is None else f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"

    def describe_measurement(self) -> str:
        """Returns in one paragraph how the values were measured."""
        how = {
            "shuffled": f"an absent modality has its value in another row (mean of {self.draws})",
            "blank": "an absent modality is blank: an empty text, a grey image, silence",
            "absent": "an absent modality is missing; with none present, all have the values of another row",
        }[self.absence]
        kind = "Exact Shapley values" if self.exact else f"Shapley values of random orders{self._describe_error()}"
        text = f"{kind} over {len(self):,} rows; {how}. In brackets: 95 % bootstrap intervals over the rows."
        if self.exact and self.nats.interactions:
            text += " A pair's interaction is shared by its two modalities under 'adds', and apart under 'alone'."
        if self.absence == "absent" and not self.trained_with_missing:
            text += f" {UNTRAINED}"
        return text

    def _describe_error(self) -> str:
        return f" (standard error of a row's value {np.nanmean(self.nats.errors):.3g})"

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as what JSON can hold: the means with intervals, and the values of each row."""
        shares = {name: share.as_dict() for name, share in self.compute_shares().items()}
        parts = {name: share.as_dict() for name, share in self.compute_decomposition().items()}
        return {
            "players": list(self.players),
            "absence": self.absence,
            "draws": self.draws,
            "exact": self.exact,
            "trained_with_missing": self.trained_with_missing,
            "rows": len(self),
            "shares": shares,
            "decomposition": parts,
            "means": self._list_means(),
            "targets": self.targets,
            "nats": self.nats.to_dict(),
            "metric": None if self.metric is None else self.metric.to_dict(),
        }

    def _list_means(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for values in (self.nats, self.metric):
            if values is not None:
                own = {**dict(zip(self.players, values.shapley.T, strict=True)), **values.interactions}
                own[ALL] = values.whole - values.empty
                means = {name: self.compute_mean(value) for name, value in own.items()}
                found[values.unit] = {name: None if mean is None else mean.as_dict() for name, mean in means.items()}
        return found


UNTRAINED = (
    "This model was not trained with missing modalities, so that its answers without one are no measure of anything: "
    "take absence='shuffled', or train with fusion_config.modality_dropout."
)


def format_percent(share: Interval | None) -> str:
    """Returns a share with its interval: "62 % [60, 64]"."""
    return "-" if share is None else f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def format_line(cells: Sequence[str]) -> str:
    """Returns a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
