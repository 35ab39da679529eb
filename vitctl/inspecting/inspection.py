"""Models and images, each loaded when it is first wanted, and analyses run on them: on each model, or on a pair."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from vitctl.conversation import Conversation, Setting
from vitctl.errors import DataError, ModelError, SettingError
from vitctl.inspecting.attention_tap import AttentionTap, check_attention
from vitctl.inspecting.catalogue import Analysis, catalogue
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.subject import ImageStream, find_layer
from vitctl.inspecting.subjects import LoadedSubject, ModelChoice, ShownImages, load_subject
from vitctl.inspecting.view import View
from vitctl.primitives.image_sizes import format_size
from vitctl.settings.inspect_model import NUM_PICTURES, InspectAllConfig, InspectConfig, OnImages, Size


@dataclass(frozen=True)
class Named:
    """Findings, and whose they are.

    Attributes:
        name: Of the model, or of both of a pair.
        models: The models, one or two.
        findings: What was found.
    """

    name: str
    models: tuple[LoadedSubject, ...]
    findings: Findings


class Inspection:
    """Models and images, each loaded when it is first wanted.

    Args:
        config: What was asked for.
        models: In order.
        device: Where they compute.
        conversation: Shows progress.
        open_images: From settings and how many images are wanted to those that there are, looked at.
    """

    def __init__(
        self,
        config: InspectConfig,
        models: Sequence[ModelChoice],
        *,
        device: torch.device,
        conversation: Conversation,
        open_images: Callable[[OnImages, int], ShownImages],
    ) -> None:
        self.config, self.models, self.device, self.conversation = config, tuple(models), device, conversation
        self._open_images = open_images
        self._said: set[object] = set()

    def of_models(self, models: Sequence[ModelChoice]) -> "Inspection":
        """Return the inspection of other models with the same images."""
        return Inspection(
            self.config,
            models,
            device=self.device,
            conversation=self.conversation,
            open_images=lambda _config, _most: self.images,
        )

    def _load(self, image_size: tuple[int, int] | None) -> tuple[LoadedSubject, ...]:
        loaded = []
        for model in self.models:
            one = load_subject(
                model,
                image_size=image_size,
                method=self.config.pos_embed_interp if isinstance(self.config, Size) else None,
                seed=self.config.seed,
                device=self.device,
                conversation=self.conversation,
            )
            for note in one.opened.notes:
                self._warn_once((model, note), note)  # a model that is opened at two sizes has them twice
            loaded.append(one)
        return tuple(loaded)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) px that was asked for; None is each model's own."""
        return self.config.image_size if isinstance(self.config, Size) else None

    @cached_property
    def loaded(self) -> tuple[LoadedSubject, ...]:
        """The models at the size asked for."""
        return self._load(self.image_size)

    @cached_property
    def at_own_size(self) -> tuple[LoadedSubject, ...]:
        """The models at their own size."""
        return self.loaded if self.image_size is None else self._load(None)

    @property
    def shows_images(self) -> bool:
        """Whether ``images`` are needed; an analysis may draw its own, or look at weights only."""
        return isinstance(self.config, OnImages) and self.config.draws is None

    @cached_property
    def images(self) -> ShownImages:
        """The images, read once to see that they can be."""
        config = self.config
        if not isinstance(config, OnImages):
            raise AssertionError(f"{config.analysis} shows no images")
        if isinstance(config, InspectAllConfig) and config.num_images is None:
            every = (one.options for one in catalogue().values())
            return self._open_images(config, max(one.usual_num_images for one in every if issubclass(one, OnImages)))
        return self._open_images(config, config.count)

    @property
    def models_in_words(self) -> list[Setting]:
        """Each model, with its image size, its patches and its prefix tokens."""
        found = []
        for one in self.loaded:
            geometry = one.subject.geometry
            size = f"{format_size(geometry.image_size)} px"
            grid = "" if geometry.grid is None else f", {geometry.grid[0]}x{geometry.grid[1]} patches"
            count = geometry.num_prefix_tokens
            prefix = f" and {count} prefix token{'s' * (count > 1)}" if count and grid else ""
            found.append(Setting("model", one.choice.name, f"{size}{grid}{prefix}"))
        return found

    def images_in_words(self, data: str) -> list[Setting]:
        """Return which images are shown, or drawn from ``data``; nothing where only weights are looked at."""
        config = self.config
        if not isinstance(config, OnImages):
            return []
        if config.draws is not None:
            return [Setting("images", f"{data}: {config.draws}")]
        spec = self.images.spec
        shown = f"{len(self.images.split):,} of {spec}" if config.files is None else spec
        return [Setting("images", shown, self.images.reason)]

    def models_for(self, options: InspectConfig) -> tuple[LoadedSubject, ...]:
        """Return the models at the size that an analysis looks at them: their own, where it looks at weights only."""
        return self.loaded if isinstance(options, OnImages) else self.at_own_size

    def view(self, one: LoadedSubject, options: InspectConfig) -> View:
        """Return a model as the analysis with ``options`` is shown it."""
        shows_files = isinstance(options, OnImages) and options.files is not None
        stream = partial(self._stream, one, options)
        return View(one.subject, one.opened, stream, None if shows_files else NUM_PICTURES)

    def warn(self, found: Sequence[Named]) -> None:
        """Say every note of findings once, however many analyses have it."""
        for named in found:
            for note in named.findings.notes:
                self._warn_once(note, note if len(self.models) == 1 else f"{named.name}: {note}")

    def _warn_once(self, key: object, note: str) -> None:
        if key not in self._said:
            self.conversation.warn(note)
        self._said.add(key)

    def _stream(self, one: LoadedSubject, options: InspectConfig) -> ImageStream:
        if not isinstance(options, OnImages):
            raise AssertionError(f"{options.analysis} shows no images")
        workers = one.workers(self.images, options)
        if workers.is_reduced:
            self._warn_once("workers", workers.sentence())
        return one.stream(self.images, options, count=options.count if options.files is None else None)


def run_analysis(analysis: Analysis, options: InspectConfig, inspection: Inspection) -> list[Named]:
    """Return what ``analysis`` finds: for every model, or once for those that it looks at together.

    Raises:
        VitctlError: A model, an option or the images do not fit it.
    """
    models = inspection.models_for(options)
    if analysis.words.most_models > 1:
        return [_run(analysis, options, inspection, models[: analysis.words.most_models])]
    for one in models:
        _check(analysis, options, one)
    return [_run(analysis, options, inspection, (one,)) for one in models]


def run_what_fits(
    analysis: Analysis, options: InspectConfig, inspection: Inspection
) -> tuple[list[Named], list[tuple[LoadedSubject, str]]]:
    """Return what ``analysis`` finds for the models that it takes, and the others with the reason.

    Raises:
        VitctlError: It takes none of them.
    """
    if analysis.words.most_models > 1:
        return run_analysis(analysis, options, inspection), []
    models = inspection.models_for(options)
    found: list[Named] = []
    refused: list[tuple[LoadedSubject, str]] = []
    for one in models:
        try:
            _check(analysis, options, one)
            found.append(_run(analysis, options, inspection, (one,)))
        except (ModelError, SettingError, DataError) as error:
            if len(refused) + 1 == len(models):
                raise
            refused.append((one, str(error)))
    return found, refused


def _run(
    analysis: Analysis, options: InspectConfig, inspection: Inspection, models: tuple[LoadedSubject, ...]
) -> Named:
    views = (inspection.view(one, options) for one in models)
    found = analysis.analyse(options, inspection.conversation, *views)
    return Named(" and ".join(one.choice.name for one in models), models, found)


def _check(analysis: Analysis, options: InspectConfig, one: LoadedSubject) -> None:
    """Check what can be known of a model before it is shown images.

    Raises:
        VitctlError: The analysis does not take it, or an option does not fit it.
    """
    query, layer = getattr(options, "query", None), getattr(options, "layer", None)
    if analysis.words.needs_attention:
        check_attention(one.subject)
        if query is not None:
            AttentionTap(one.subject).position(query)
    elif layer is not None:
        find_layer(layer, one.subject)
