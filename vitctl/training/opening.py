"""The model to train, opened and held against what is asked of it, before any image is read."""

from vitctl.models.pooling import with_pooling
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.primitives.decision import Decision
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.noise_places import check_noise
from vitctl.training.plan import FirstChoices, asked_noise
from vitctl.training.recomputation import recompute_blocks
from vitctl.training.sizes import check_sizes
from vitctl.training.trained import check_tuning


def open_to_train(
    config: FinetuneConfig, first: FirstChoices, wanted: Decision[tuple[int, int]] | None
) -> PreparedModel:
    """Return the model at its own size, with the pooling that its head is to see.

    Args:
        config: What was asked for.
        first: What followed from it.
        wanted: (H, W) px to train at; None where that is the model's own, or follows from the images.

    Raises:
        ModelError: It cannot be loaded.
        SettingError: It cannot be trained as it is asked for: pooled, at this size, with this noise, these
            parts, recomputed.
    """
    recipe = first.values
    opened = open_model(
        first.model.value, weights=config.weights, seed=config.seed, model_args=config.model_args, is_saved=True
    )
    opened = with_pooling(opened, first.pool.value)
    check_sizes(opened, wanted, recipe.length.sizes)
    check_noise(opened.model, **asked_noise(recipe), name=opened.name)
    check_tuning(opened.model, first.tuning.tuning, name=opened.name)
    if config.checkpointing:
        recompute_blocks(opened.model, name=opened.name)
    return opened
