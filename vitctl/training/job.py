"""What is trained, and how: a plan with everything built that it needs."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from vitctl.data.augmentation import Augmentation
from vitctl.data.imbalance import balanced_class_weights
from vitctl.data.mixing import PairMixing
from vitctl.data.order import BalancedOrder, BatchPlan
from vitctl.data.source import Split
from vitctl.data.training_data import TrainingData
from vitctl.data.transforms import TrainingTransform
from vitctl.models.other_sizes import take_other_sizes
from vitctl.models.prepared import PreparedModel
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.processes import ALONE, Processes
from vitctl.recipes import Recipe
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.ends import check_patience
from vitctl.training.kept_features import Keeping, KeptFeatures, decide_keeping
from vitctl.training.loop import RateSchedule
from vitctl.training.micro_batches import has_batch_norm
from vitctl.training.noise_places import InstalledNoise, install_noise
from vitctl.training.optimizer import parameter_groups
from vitctl.training.plan import Plan, asked_noise
from vitctl.training.processes import build_accelerator
from vitctl.training.recomputation import recompute_blocks
from vitctl.training.sizes import check_steps
from vitctl.training.trained import choose_trained
from vitctl.training.tuning import parse_scales


@dataclass(frozen=True)
class Job:
    """A model, its images and how to train it.

    Attributes:
        model: A timm model with its new head, at its new size. It is trained in place.
        train: Training images.
        val: Validation images, or None.
        preprocessing: Of validation; size, mean and std of training.
        recipe: Optimiser, schedule, augmentation, selection; what goes before it, of what is trained, is in it.
        batches: Which images make up each step.
        lr: Peak rate as used.
        flip: Mirror half of the training images.
        num_workers: Processes that read images.
        accelerator: Device and processes.
        precision: ``fp32``, ``bf16`` or ``fp16``; see ``vitctl.training.precision``.
        is_compiled: Take the steps with a compiled model; not those of a head on kept features.
        processes: Those that share the work; every method of theirs is for all of them to call.
        class_weights: (C,) float64 weights of the classes in the loss; None is 1 each.
        noise: What the model leaves out at random; it is in the model already.
        keeping: Whether the features that the head sees are computed once.
        patience: After how many validations without a lower loss training ends; None goes on.
    """

    model: nn.Module
    train: Split
    val: Split | None
    preprocessing: Preprocessing
    recipe: Recipe
    batches: BatchPlan
    lr: float
    flip: bool
    num_workers: int
    accelerator: Accelerator
    precision: str
    is_compiled: bool = False
    processes: Processes = ALONE
    class_weights: np.ndarray | None = None
    noise: InstalledNoise = InstalledNoise()
    keeping: Keeping = Keeping()

    @property
    def kept(self) -> KeptFeatures | None:
        """The features that the head sees, where they are computed once."""
        return self.keeping.kept

    patience: int | None = None

    @property
    def selects_best(self) -> bool:
        """Whether there are enough validation images to choose the best weights by."""
        return self.val is not None and len(self.val) >= self.recipe.evaluation.select_best_from

    @property
    def is_filled(self) -> bool:
        """Whether short batches are filled up: another shape is compiled anew; BatchNorm would see what fills them."""
        return self.is_compiled and not has_batch_norm(self.model)

    @property
    def schedule(self) -> RateSchedule:
        """The learning rate of every step."""
        rate, num_steps = self.recipe.rate, self.batches.num_steps
        return RateSchedule(
            num_steps,
            round(rate.warmup_fraction * num_steps),
            self.lr,
            rate.final_lr,
            kind=rate.schedule,
            warmup_start=rate.warmup_lr,
            decay_from=rate.decay_from,
            drop_at=rate.drop_at,
            drop_factor=rate.drop_factor,
        )

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups, of a model that is not wrapped for several processes, which changes names."""
        how = self.recipe.optimizer
        return parameter_groups(
            self.model,
            weight_decay=how.weight_decay,
            layer_decay=how.layer_decay,
            final_norm=how.final_norm,
            scales=parse_scales(self.recipe.tuning.lr_scale),
        )

    def training_transform(self, size: int | None = None) -> TrainingTransform:
        """Return the random transform of the training images, to a square of ``size`` px or to the model's own size."""
        images = self.recipe.images
        return TrainingTransform(
            self.preprocessing if size is None else self.preprocessing.at((size, size)),
            crop=images.crop,
            crop_area=images.crop_area,
            flip=self.flip,
            seed=self.batches.seed,
            augmentation=Augmentation(**{key.name: getattr(images, key.name) for key in fields(Augmentation)}),
        )


def build_job(
    config: FinetuneConfig, plan: Plan, data: TrainingData, prepared: PreparedModel, processes: Processes = ALONE
) -> Job:
    """Return the job that ``plan`` says, of a model that has its size and head already.

    Raises:
        SettingError: ``--patience`` without validation images.
    """
    check_patience(config.patience, data.val)
    train, device, num_classes = data.train, plan.device.value, len(data.train.class_names)
    balanced = BalancedOrder(train.labels, config.seed) if config.sampler == "balanced" else None
    weights = balanced_class_weights(train.labels, num_classes) if config.class_weights == "balanced" else None
    recipe, mixing = plan.recipe_as_used, plan.values.mixing
    choose_trained(prepared.model, recipe.tuning, seed=config.seed, name=prepared.name)
    if config.checkpointing:
        recompute_blocks(prepared.model, name=prepared.name)
    noise = install_noise(prepared.model, **asked_noise(recipe), name=prepared.name)
    sizes = recipe.length.sizes
    if len(sizes) > 1:
        take_other_sizes(prepared.model)
    batches = BatchPlan(
        len(train),
        plan.batch.value,
        plan.length.value,
        config.seed,
        balanced,
        config.micro_batch,
        PairMixing(**vars(mixing)) if mixing.mixup or mixing.cutmix else None,
        sizes if len(sizes) > 1 else (),
    )
    check_steps(sizes, batches.num_steps)
    keeping = decide_keeping(
        prepared.model,
        recipe,
        flip=plan.flip.value,
        num_images=len(train) + (0 if data.val is None else len(data.val)),
        image_size=prepared.image_size,
    )
    return Job(
        model=prepared.model,
        train=train,
        val=data.val,
        preprocessing=replace(
            prepared.preprocessing.cropped(plan.values.images.evaluation_crop), max_value=plan.max_value.value
        ),
        recipe=recipe,
        batches=batches,
        lr=plan.lr.value,
        flip=plan.flip.value,
        num_workers=plan.workers.value,
        accelerator=build_accelerator(device, num_threads=plan.threads.value),
        precision=plan.precision.value,
        is_compiled=config.compile and keeping.kept is None,
        processes=processes,
        class_weights=weights,
        noise=noise,
        keeping=keeping,
        patience=config.patience,
    )
