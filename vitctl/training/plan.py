"""What to train with where the user did not say: batch, length, rate; each with its reason.

The numbers come from a recipe; see ``vitctl/recipes``. What stands both there and as an option is decided here: the
option goes before the recipe. Everything here is plain arithmetic; a plan builds nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vitctl.data.training_data import TrainingData
from vitctl.data.workers import batch_bytes, resolve_num_workers
from vitctl.models import choices
from vitctl.models.pooling import MODEL
from vitctl.primitives.compiler_needs import check_compiler
from vitctl.primitives.cpus import num_local_processes
from vitctl.primitives.decision import Decision
from vitctl.primitives.devices import resolve_device, resolve_num_threads
from vitctl.primitives.durations import (
    batch_size_for,
    bit_hyperrule_steps,
    images_seen_transfer,
    steps_for_images,
)
from vitctl.primitives.files import user_path
from vitctl.recipes import (
    SET,
    Recipe,
    as_document,
    lasting_name,
    load_recipe,
    options_behind,
    override,
    recipe_from_settings,
)
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.words import DEMO, DIGITS, PRETRAINED, RANDOM
from vitctl.training.optimizer_choice import check_optimizer
from vitctl.training.precision import decide_precision
from vitctl.training.starting_run import StartingRun, starting_run
from vitctl.training.tuning import BY_RECIPE, TuningChoice, TuningOptions

GIVEN = "given"  # the reason for what an option says
MIN_EVALUATION_BATCH = 64  # validation needs no gradients, so it can take more than a small training batch


def evaluation_batch_size(batch_size: int) -> int:
    """Return how many images a validation takes at a time, where training takes ``batch_size``."""
    return max(MIN_EVALUATION_BATCH, batch_size)


def is_overridden(recipe: Recipe, path: str) -> bool:
    """Return whether the value of a recipe at ``SECTION.KEY`` is from ``--set``."""
    return recipe.sources.get(path) == SET


def _origin(recipe: Recipe, path: str, recipe_name: str) -> str:
    return f"{SET} {path}" if is_overridden(recipe, path) else f"recipe {recipe_name}"


def decide_batch_size(
    given: int | None, recipe: Recipe, num_train: int, *, recipe_name: str, run: StartingRun | None = None
) -> Decision[int]:
    """Return the global batch; ``run`` is what it starts from."""
    if given is not None:
        return Decision(given, "given")
    if run is not None and (kept := run.batch(recipe, num_train)):
        return kept
    length, origin = recipe.length, _origin(recipe, "length.batch_size", recipe_name)
    if length.batch_rule == "fixed":
        return Decision(length.batch_size, origin)
    size = batch_size_for(num_train, largest=length.batch_size)
    why = "" if size == length.batch_size else ", at most a quarter of the images"
    return Decision(size, f"{origin}{why}")


def decide_num_images_seen(
    steps: int | None,
    epochs: float | None,
    recipe: Recipe,
    num_train: int,
    batch_size: int,
    *,
    recipe_name: str,
) -> Decision[int]:
    """Return how many images the run shows, repeats counted; steps are that over the batch, rounded up."""
    if steps is not None:
        return Decision(steps * batch_size, "given")
    if epochs is not None:
        return _whole_epochs(epochs, num_train, batch_size)
    if recipe.length.steps_rule == "epochs":
        seen, reason = _whole_epochs(recipe.length.epochs, num_train, batch_size)
        return Decision(seen, f"{_origin(recipe, 'length.epochs', recipe_name)}: {reason}")
    if recipe.length.steps_rule == "images-seen":
        wanted = images_seen_transfer(num_train)
        num_steps = steps_for_images(wanted, batch_size=batch_size)
        return Decision(num_steps * batch_size, f"recipe {recipe_name}: {wanted:,} images seen")
    if recipe.length.steps_rule == "bit-hyperrule":
        return Decision(bit_hyperrule_steps(num_train) * batch_size, f"BiT-HyperRule for {num_train:,} images")
    return Decision(recipe.length.steps * batch_size, _origin(recipe, "length.steps", recipe_name))


def _whole_epochs(epochs: float, num_train: int, batch_size: int) -> Decision[int]:
    seen = max(1, round(epochs * num_train))
    short = seen % batch_size
    return Decision(seen, f"{epochs:g} epochs" + (f"; the last batch holds {short}" if short else ""))


def decide_lr(
    given: float | None,
    recipe: Recipe,
    batch_size: int,
    *,
    recipe_name: str,
    run: StartingRun | None = None,
    tuning: TuningChoice = BY_RECIPE,
) -> Decision[float]:
    """Return the peak learning rate; a given one is used as it is, the recipe's (``--set`` too) follows the batch.

    One that was given to ``run``, which it starts from, is kept with its recipe, its batch and what it trained. The
    recipe's own is multiplied by what ``tuning`` needs; one that was ``--set`` is not.
    """
    if given is not None:
        return Decision(given, "given, used as it is")
    if run is not None and (kept := run.rate(recipe, batch_size, tuning)):
        return kept
    rate, why, is_set = recipe.rate, _origin(recipe, "rate.lr", recipe_name), is_overridden(recipe, "rate.lr")
    if batch_size != rate.lr_at_batch and rate.lr_scaling != "none":
        why += f": {rate.lr:g} at batch {rate.lr_at_batch}, {rate.lr_scaling} scaling"
        why += "; --lr is used as it is" if is_set else ""
    lr = rate.peak_lr(batch_size)
    return Decision(lr, why) if is_set else Decision(*tuning.scaled(lr, why))


def decide_tuning(config: FinetuneConfig, recipe: Recipe, run: StartingRun | None = None) -> TuningChoice:
    """Return what is trained: by the options, else as ``run``, which it starts from, else by the recipe.

    Raises:
        SettingError: A mode or an expression cannot be read.
    """
    options = TuningOptions(config.tune, config.layer_decay, config.lr_scale, config.freeze)
    reason = "" if config.tune is None else GIVEN
    if run is not None and config.recipe is None and config.recipe_settings is None:
        kept = run.options.unless_changed(recipe, run.recipe)
        options = options.before(kept)
        is_set = run.options.tune is not None and kept.tune is None
        reason = reason or (_origin(recipe, "tuning.mode", "") if is_set else run.reason)
    return replace(options.on(recipe), reason=reason)


def decide_asked_size(
    given: tuple[int, int] | None, recipe: Recipe, *, recipe_name: str, run: StartingRun | None = None
) -> Decision[tuple[int, int]] | None:
    """Return the (H, W) px that is given, or is the recipe's; None where neither says one.

    Also None where the recipe says the size that the recipe of ``run`` said, which training starts from: a run keeps
    the size that it was trained at.
    """
    if given is not None:
        return Decision(given, GIVEN)
    own = _own_size(recipe)
    if not own or (run is not None and own == _own_size(run.recipe)):
        return None
    path = "images.size" if recipe.images.size else "length.sizes"
    return Decision((own, own), _origin(recipe, path, recipe_name))


def _own_size(recipe: Recipe) -> int:
    return recipe.images.size or (recipe.length.sizes[-1] if recipe.length.sizes else 0)


def decide_interpolation(given: str | None, recipe: Recipe, *, weights: str, recipe_name: str) -> Decision[str]:
    """Return how position embeddings are resampled; ``weights`` is the weights spec."""
    path = "images.pos_embed_interp"
    by_recipe = Decision[str](recipe.images.pos_embed_interp, _origin(recipe, path, recipe_name))
    if given is None and is_overridden(recipe, path):
        return by_recipe
    return choices.decide_interpolation(given, weights=weights, otherwise=by_recipe)


def decide_flip(given: bool | None, recipe: Recipe, *, is_flippable: bool, recipe_name: str) -> Decision[bool]:
    """Return whether half of the training images are mirrored."""
    if given is not None:
        return Decision(given, "given")
    if recipe.images.flip and not is_flippable and not is_overridden(recipe, "images.flip"):
        return Decision(False, "the images seem to show digits or letters; --flip overrules")
    return Decision(recipe.images.flip, _origin(recipe, "images.flip", recipe_name))


def decide_pool(config: FinetuneConfig, recipe: Recipe, *, recipe_name: str, run: StartingRun | None) -> Decision[str]:
    """Return what the head sees of a ViT's tokens, one of ``HEAD_POOLS``.

    The recipe that is kept of ``run``, which training starts from, does not say it: an option may have said another.
    """
    if config.pool is not None:
        return Decision(config.pool, GIVEN)
    is_set = "pool" in options_behind(config.set)
    if run is not None and config.recipe is None and config.recipe_settings is None and not is_set:
        return Decision(MODEL, run.reason)
    return Decision(recipe.head.pool, _origin(recipe, "head.pool", recipe_name))


def asked_noise(recipe: Recipe) -> dict[str, float | None]:
    """Return what a recipe says of each kind of noise, by key; None where nothing, so that the model's own stays."""
    rates = vars(recipe.noise).items()
    return {key: rate if rate or is_overridden(recipe, f"noise.{key}") else None for key, rate in rates}


# --- a whole plan ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FirstChoices:
    """What the settings alone decide, before anything is opened.

    Attributes:
        data_spec: Training images.
        device: Where to compute.
        threads: CPU threads of torch.
        precision: Of the forward pass of training.
        model: Spec of the model.
        recipe: Name or path of the recipe.
        values: The recipe.
        out: Run folder, absolute.
        tuning: What is trained.
        pool: What the head sees of a ViT's tokens.
        run: The run that the model is of, where it says how to train; None elsewhere.
    """

    data_spec: str
    device: Decision[torch.device]
    threads: Decision[int]
    precision: Decision[str]
    model: Decision[str]
    recipe: Decision[str]
    values: Recipe
    out: Decision[Path]
    tuning: TuningChoice = BY_RECIPE
    pool: Decision[str] = Decision(MODEL, "")
    run: StartingRun | None = None


@dataclass(frozen=True, kw_only=True)
class Plan(FirstChoices):
    """Every value of a run, with its reason.

    Attributes:
        data: Training images, as their source calls itself.
        val_spec: Where validation images come from, those that are left untouched too.
        dev_fraction: Share of the training images to choose settings by; None where none are.
        clean: The file that lists images to leave out of training, and its hash; None where none does.
        image_size: (H, W) px to train at.
        interpolation: How position embeddings are resampled.
        head: What was done about the head.
        batch: Images of the global batch.
        length: Images seen, repeats counted.
        lr: Peak learning rate.
        flip: Mirror half of the training images.
        workers: Processes that read images.
        max_value: How images of 16 bits become RGB.
        has_16_bits: Whether there are such images to train on.
    """

    data: Decision[str]
    val_spec: str
    dev_fraction: float | None
    clean: str | None
    image_size: Decision[tuple[int, int]]
    interpolation: Decision[str]
    head: Decision[str]
    batch: Decision[int]
    length: Decision[int]
    lr: Decision[float]
    flip: Decision[bool]
    workers: Decision[int]
    max_value: Decision[int | None]
    has_16_bits: bool

    def resolve(self, config: FinetuneConfig, *, model: str) -> FinetuneConfig:
        """Return ``config`` with every ``None`` decided and every path absolute; what is not named here stays as given.

        Args:
            config: What the plan was made from.
            model: The loaded model's name.
        """
        num_steps, left_over = divmod(self.length.value, self.batch.value)  # only epochs leave a short last batch
        weights = config.weights
        return replace(
            config,
            data=self.data.value,
            image_root=None if config.image_root is None else str(user_path(config.image_root).absolute()),
            val=self.val_spec if config.val is not None else None,
            dev_fraction=self.dev_fraction,
            clean=self.clean,
            model=model,
            weights=weights if weights in (PRETRAINED, RANDOM) else str(user_path(weights).absolute()),
            image_size=self.image_size.value,
            pos_embed_interp=self.interpolation.value,
            pool=self.pool.value,
            recipe=self.recipe.value,
            steps=None if left_over else num_steps,
            epochs=(config.epochs or self.values.length.epochs) if left_over else None,
            batch_size=self.batch.value,
            lr=self.lr.value,
            flip=self.flip.value,
            max_value=self.max_value.value if self.has_16_bits else config.max_value,  # what is given warns in a replay
            num_workers=self.workers.value,
            num_threads=self.threads.value,
            precision=self.precision.value,
            device=self.device.value.type,
            recipe_settings=as_document(self.values),
            **self.tuning.resolved(),
        )

    @property
    def recipe_as_used(self) -> Recipe:
        """The recipe with what goes before it, of what is trained."""
        how = replace(self.values.optimizer, layer_decay=self.tuning.layer_decay)
        return replace(self.values, optimizer=how, tuning=self.tuning.tuning)


def first_choices(config: FinetuneConfig) -> FirstChoices:
    """Decide what needs no file but the recipe's.

    Raises:
        SettingError: There is no such recipe, or it has other keys or values than a recipe's.
        UnavailableError: The device asked for is not here, does not compute in the precision, or has no compiler.
    """
    data_spec = DIGITS if config.data is None else config.data
    device = Decision(*resolve_device(config.device))
    if config.compile:
        check_compiler(device.value)
    model = choices.decide_model(config.model, has_data=config.data is not None, device_type=device.value.type)
    are_given = (config.image_size, config.batch_size, config.recipe or config.recipe_settings)
    run = None if all(are_given) else starting_run(model.value)
    recipe, values = decide_recipe(config, is_demo=model.value == DEMO, run=run)
    check_optimizer(values)
    return FirstChoices(
        data_spec=data_spec,
        device=device,
        threads=Decision(*resolve_num_threads(config.num_threads)),
        precision=decide_precision(config.precision, device.value),
        model=model,
        recipe=recipe,
        values=values,
        out=decide_out(config.out, data_spec, model.value),
        tuning=decide_tuning(config, values, run),
        pool=decide_pool(config, values, recipe_name=recipe.value, run=run),
        run=run,
    )


def decide_recipe(
    config: FinetuneConfig, *, is_demo: bool, run: StartingRun | None = None
) -> tuple[Decision[str], Recipe]:
    """Return the name or path of the recipe, and its values with those of ``--set``; ``run`` is what it starts from."""
    name = config.recipe or ("demo" if is_demo else "transfer")
    if config.recipe_settings is not None:
        recipe = recipe_from_settings(config.recipe_settings, where="recipe_settings of --config")
        why = "as the configuration file holds it"
    elif config.recipe is None and run is not None:
        name, recipe, why = run.recipe_name, run.recipe, run.reason
    else:
        name = lasting_name(name)
        recipe = load_recipe(name)
        why = "given" if config.recipe else f"the default for {'the demo model' if is_demo else 'a pretrained model'}"
    if config.set:
        return Decision(name, f"{why}; with --set {', '.join(config.set)}"), override(recipe, config.set)
    return Decision(name, why), recipe


def decide_out(given: str | None, data_spec: str, model_spec: str) -> Decision[Path]:
    """Return the run folder."""
    if given is not None:
        return Decision(user_path(given).absolute(), "given")
    names = (Path(spec).absolute().name for spec in (data_spec, model_spec))
    return Decision((Path("runs") / "-".join(names)).absolute(), "the default for this data and model")


def make_plan(
    config: FinetuneConfig,
    first: FirstChoices,
    data: TrainingData,
    *,
    image_size: Decision[tuple[int, int]],
    interpolation: Decision[str],
    head: Decision[str],
) -> Plan:
    """Decide what follows from the images that are left: the batch, from that length and rate."""
    recipe, name, num_train = first.values, first.recipe.value, len(data.train)
    batch = decide_batch_size(config.batch_size, recipe, num_train, recipe_name=name, run=first.run)
    is_flippable = data.source.may_flip(data.train.class_names)
    # training images stay under way while those of a validation are read
    num_images = -(-batch.value // num_local_processes()) + evaluation_batch_size(batch.value)
    workers = resolve_num_workers(
        config.num_workers,
        is_in_memory=data.source.is_in_memory,
        device_type=first.device.value.type,
        batch_bytes=batch_bytes(num_images, image_size.value),
    )
    return Plan(
        **vars(first),
        data=Decision(data.source.spec, data.source.description if config.data else "the default: no --data is given"),
        val_spec=data.val_spec if data.untouched is None else data.untouched.spec,
        dev_fraction=data.dev_fraction,
        clean=None if data.listed is None else data.listed.spec,
        image_size=image_size,
        interpolation=interpolation,
        head=head,
        batch=batch,
        length=decide_num_images_seen(config.steps, config.epochs, recipe, num_train, batch.value, recipe_name=name),
        lr=decide_lr(config.rate, recipe, batch.value, recipe_name=name, run=first.run, tuning=first.tuning),
        flip=decide_flip(config.flip, recipe, is_flippable=is_flippable, recipe_name=name),
        workers=Decision(workers.number, workers.reason),
        max_value=data.max_value,
        has_16_bits=data.depth.most is not None,
    )
