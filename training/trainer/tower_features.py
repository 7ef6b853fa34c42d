"""Keeps the cached tower outputs of a trainer's batches those of its model, as the model is now."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.utils import logging

from ...modeling.adaptation.fresh import unwrap_plait
from ..data.feature_cache import FeatureStore, cache_features, name_folder
from ..data.tower_digest import TowerDigest
from ..optimization.arguments import PlaitTrainingArguments
from ..tasks.collator import PlaitDataCollator

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)


class TowerFeatures:
    """The cached outputs of a model's frozen towers that a collator puts into a trainer's batches.

    They are those of `cache_features` in the arguments, or those that the collator has already, if they are of this
    model: a collator may have served another one, and weights and settings may change between two loaders.
    """

    def __init__(
        self, args: PlaitTrainingArguments, model: nn.Module, collator: Any, datasets: Sequence["Dataset"]
    ) -> None:
        self.args, self.collator, self.datasets = args, collator, datasets
        self.stores: dict[str, FeatureStore] = {}
        self.digests: dict[str, TowerDigest] = {}
        if args.cache_features:
            self._check_task()
            self._compute(model)
            collator.features = dict(self.stores)
        elif isinstance(collator, PlaitDataCollator):
            self.stores = dict(collator.features)
            self.digests = {modality: TowerDigest(modality) for modality in self.stores}
            self._select_own(model)

    def install(self, model: nn.Module) -> None:
        """Gives the collator the outputs of the model as it is now; computes those that have changed."""
        sharded = self.args.shards_parameters  # no process has the weights of a whole tower
        if not sharded and not self._select_own(model) and self.args.cache_features:
            self._compute(model)
        self.collator.features = dict(self.stores)

    def _select_own(self, model: nn.Module) -> bool:
        """Drops the outputs that are not of the model's towers as they are now; returns whether all are."""
        processor, towers = self.collator.processor, unwrap_plait(model).towers
        found = {
            modality: store
            for modality, store in self.stores.items()
            if modality in towers
            and store.folder.name == name_folder(modality, self.digests[modality].compute(model, processor))
        }
        for modality in self.stores.keys() - found.keys():
            logger.warning(
                f"the cached {modality} features in {self.stores[modality].folder} are of another tower or processor "
                "than this model's: they are not used"
            )
        complete, self.stores = len(found) == len(self.stores), found
        return complete

    def _check_task(self) -> None:
        """Raises ValueError if the collator cannot put cached outputs into the batches of its task."""
        if not isinstance(self.collator, PlaitDataCollator):
            raise ValueError(
                f"cache_features is {self.args.cache_features}, but only a PlaitDataCollator puts cached outputs into "
                "batches: give one as data_collator"
            )
        task = self.collator.task
        for modality in self.args.cache_features:
            if not task.is_cacheable(modality, self.collator.settings):
                raise ValueError(
                    f"cache_features: the {modality} inputs of the task {task.name} cannot be cached, because the task "
                    f"masks or rearranges them: remove {modality!r}"
                )

    def _compute(self, model: nn.Module) -> None:
        """Computes and stores the outputs on all data sets that are not stored yet."""
        with self.args.main_process_first(local=False, desc="tower features"):
            for modality in self.args.cache_features:
                self.stores[modality] = cache_features(
                    model,
                    self.collator.processor,
                    self.datasets,
                    modality,
                    folder=self.args.feature_cache_dir,
                    limit=self.args.feature_cache_limit,
                    batch_size=self.args.per_device_eval_batch_size,
                    max_length=self.collator.max_length,
                )
                self.digests[modality] = TowerDigest(modality)
