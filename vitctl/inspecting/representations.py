"""Which outputs of a model are its layers, block by block or finer, and which of their tokens to compare.

Layers are looked for once, by showing the model three random images: what runs, in which order and with which shapes
is seen, not guessed from names. Then every layer is handed on as it is computed; none is kept.

Letters: B images, T tokens (P of them prefix tokens), D width, h w places.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError, check_choice
from vitctl.inspecting.subject import Subject
from vitctl.models.anatomy import Unit, blocks_of, has_class_token, num_expected_prefix_tokens, units_of
from vitctl.models.block_anatomy import parts_of
from vitctl.settings.words import EMBED, FINAL, GRANULARITIES, TOKENS

STEM = "stem"  # what enters the first block of a model with stages, timm's name for what is before
_SIMPLE = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_NUM_IMAGES = 3  # shown to find the layers; few other dimensions are 3


@dataclass(frozen=True)
class Site:
    """A layer: where its numbers can be seen.

    Attributes:
        name: ``embed``, ``0``, ``0.norm1``, ``final`` of a model with one list of blocks; ``stem`` and the modules'
            paths, such as ``layer1.0``, of a model with stages.
        module: Path of the module within the model; "" is what ``forward_features`` gives.
        reads_input: Whether it is the module's first argument, not its output.
        call: Which of the module's calls in one forward pass, from 0.
        stage: Position of its stage (or block) in the model; None where there is none.
        shape: Of one image's representation.
        num_tokens: T of the block that the layer belongs to; None for feature maps.
        num_prefix: P; None where it is not known.
    """

    name: str
    module: str
    reads_input: bool = False
    call: int = 0
    stage: int | None = None
    shape: tuple[int, ...] = ()
    num_tokens: int | None = None
    num_prefix: int | None = None


@dataclass(frozen=True)
class Layers:
    """The layers of a model.

    Attributes:
        sites: In the order in which they are computed.
        left_out: Names of blocks that give something else than one tensor for every image.
        has_class_token: Whether the first prefix token is a class token.
        model_name: For messages.
    """

    sites: tuple[Site, ...]
    left_out: tuple[str, ...]
    has_class_token: bool
    model_name: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(site.name for site in self.sites)

    def check_tokens(self, tokens: str) -> None:
        """Check that every layer has the tokens that are wanted.

        Raises:
            SettingError: One has not; the sentence says what can be used.
        """
        check_choice(tokens, TOKENS, what="--tokens", field="tokens")
        for site in self.sites:
            if tokens == "cls" and (len(site.shape) != 2 or not self.has_class_token or site.num_prefix == 0):
                raise SettingError(
                    f"--tokens cls: layer {site.name} of {self.model_name} has no class token; expected one in every "
                    "layer. Try --tokens all or mean.",
                    field="tokens",
                )
            has_tokens = site.num_tokens is None or site.num_tokens in site.shape
            if tokens != "all" and (site.num_prefix is None or not has_tokens):
                raise SettingError(
                    f"--tokens {tokens}: which numbers of layer {site.name} of {self.model_name} belong to which token "
                    "is not known; expected tokens after its prefix tokens. Try --tokens all.",
                    field="tokens",
                )


def find_layers(subject: Subject, granularity: str) -> Layers:
    """Return the layers of a model.

    ``block``: what enters the first block (``embed``, ``stem``), what each block or residual unit gives, and
    ``final``, what ``forward_features`` gives, unless a model with stages gives its last unit's output. Of a model
    with neither blocks nor stages, what the children of its ``features`` (or of the model) give.

    ``sublayer`` adds, per block with two norms, ``norm1``, ``attn`` (or what mixes the tokens instead), ``stream``
    after it, ``norm2``, ``mlp.hidden`` after the activation and ``mlp``; elsewhere every convolution, linear layer,
    norm and activation. Inner layers that give windows instead of images are left out. Without one list of blocks, a
    layer that is the very tensor before it is not listed twice.
    What runs several times in a forward pass is listed as often (``act``, ``act#2``).

    Args:
        subject: The model; it is shown three random images.
        granularity: ``block`` or ``sublayer``.

    Raises:
        SettingError: An unknown granularity.
        ModelError: No layer gives one tensor for every image.
    """
    check_choice(granularity, GRANULARITIES, what="--granularity", field="granularity")
    units = units_of(subject.model)
    is_flat = tuple(unit.module for unit in units) == blocks_of(subject.model)
    wanted = _wanted_sites(subject.model, units, is_flat=is_flat, is_fine=granularity == "sublayer")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_NUM_IMAGES, 3, *subject.geometry.image_size, generator=generator).to(subject.device)
    composite = {unit.path for unit in units if _simple_paths(unit.module) != [""]}
    seen = _Seen(None if is_flat else composite, last=images)
    _run(subject, wanted, images, seen.add)
    unit_paths = {unit.path for unit in units}
    left_out = tuple(site.name for site in seen.unusable if site.module in unit_paths and not site.reads_input)
    if all(site.name == FINAL for site in seen.sites) and units:
        raise ModelError(
            f"The blocks of {subject.name} do not give one tensor for every image; expected a model of timm whose "
            "blocks or stages do, such as a ViT or a ResNet."
        )
    sites = _with_tokens(seen.sites, units, subject, is_flat=is_flat)
    return Layers(sites, left_out, has_class_token(subject.model), subject.name)


@torch.no_grad()
def visit_layers(subject: Subject, layers: Layers, images: Tensor, visit: Callable[[int, Tensor], None]) -> None:
    """Show images to the model and hand on every layer as it is computed.

    Args:
        subject: The model; its hooks are removed afterwards, whatever happens.
        layers: Found for it.
        images: (B, 3, H, W), on any device.
        visit: Called with the layer's position in ``layers`` and (B, ...) what it gives, not to be changed.

    Raises:
        ModelError: A layer was not computed, or not for every image.
    """
    position = {site.name: index for index, site in enumerate(layers.sites)}
    visited: set[int] = set()

    def look(site: Site, value: Any, call: int) -> None:
        tensor = _only_tensor(value) if call == site.call else None
        if tensor is not None and len(tensor) == len(images):
            visit(position[site.name], tensor)
            visited.add(position[site.name])

    _run(subject, layers.sites, images.to(subject.device), look)
    missing = [site.name for index, site in enumerate(layers.sites) if index not in visited]
    if missing:
        raise ModelError(
            f"Layer {missing[0]} of {subject.name} was computed for some images only; expected the same layers for "
            "all. Try --granularity block."
        )


def select_tokens(output: Tensor, site: Site, tokens: str) -> Tensor:
    """Return what is compared of a layer, one row per image.

    Args:
        output: (B, ...) what the layer gives: tokens (B, T, D), a feature map (B, D, h, w) or (B, h, w, D), or (B, D).
        site: The layer.
        tokens: ``all``: everything; ``cls``: the first token; ``patches``: all but prefix tokens, or all places of a
            feature map; ``mean``: the mean over these.

    Returns:
        (B, features).
    """
    if tokens == "all" or output.ndim == 2:
        return output.flatten(1)
    if output.ndim == 4:
        return output.flatten(1) if tokens == "patches" else output.mean(dim=_places(output, site))
    is_transposed = site.num_tokens is not None and output.shape[1] != site.num_tokens
    rows = output.transpose(1, 2) if is_transposed else output
    if tokens == "cls":
        return rows[:, 0]
    patches = rows[:, site.num_prefix or 0 :]
    return patches.flatten(1) if tokens == "patches" else patches.mean(dim=1)


def _places(feature_map: Tensor, site: Site) -> tuple[int, int]:
    """Return which dimensions of a feature map are its places: the two nearest to each other in size."""
    first, second, third = feature_map.shape[1:]
    is_channels_last = abs(math.log(first / second)) < abs(math.log(second / third))
    return (1, 2) if is_channels_last else (2, 3)


# --- which modules


def _has_children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _wanted_sites(model: nn.Module, units: Sequence[Unit], *, is_flat: bool, is_fine: bool) -> list[Site]:
    """Return what to look at; which of these exist and in which order shows when the model runs."""
    names = {unit.path: str(index) if is_flat else unit.path for index, unit in enumerate(units)}
    sites = [Site(EMBED if is_flat else STEM, units[0].path, reads_input=True)] if units else []
    for unit in units:
        if is_fine:
            sites += _sites_within(unit, names[unit.path])
        sites.append(Site(names[unit.path], unit.path, stage=unit.stage))
    if is_fine and not is_flat:
        known = {site.module for site in sites}
        inside = tuple(f"{unit.path}." for unit in units)
        outside = [path for path in _simple_paths(model) if path not in known and not path.startswith(inside)]
        sites += [Site(path, path) for path in outside]
    return [*sites, Site(FINAL, "")]


def _sites_within(unit: Unit, name: str) -> list[Site]:
    parts = parts_of(unit.module)
    if parts is None:
        paths = _simple_paths(unit.module)
        return [Site(f"{name}.{path}", f"{unit.path}.{path}", stage=unit.stage) for path in paths if path]
    sites = [
        Site(f"{name}.{part}", f"{unit.path}.{part}", stage=unit.stage)
        for part in (parts.norm1, parts.token_mixer, parts.norm2, parts.channel_mixer)
    ]
    for part in (parts.norm2, parts.channel_mixer):  # the first to run has the stream before it: norms may come last
        sites.append(Site(f"{name}.stream", f"{unit.path}.{part}", reads_input=True, stage=unit.stage))
    for mixer, layer in parts.second_layers.items():
        sites.append(Site(f"{name}.{mixer}.hidden", f"{unit.path}.{layer}", reads_input=True, stage=unit.stage))
    return sites


def _simple_paths(module: nn.Module) -> list[str]:
    """Return paths of convolutions, linear layers, norms (with their activation, if built in) and activations."""
    found: list[str] = []
    for path, child in module.named_modules():
        kind = type(child)
        is_other = "norm" in kind.__name__.lower() or "activation" in kind.__module__
        is_simple = isinstance(child, _SIMPLE) or (is_other and not _has_children(child))
        if is_simple and not any(outer == "" or path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return found


# --- running


@dataclass
class _Seen:
    """What showed when the model ran.

    Attributes:
        may_repeat: Paths of modules that may give the very tensor that the layer before gave, as may inputs of modules
            and ``final``; such a tensor is not listed again. None lists all.
        sites: Layers that give one tensor for every image, in order.
        unusable: Names of those that do not.
        last: What the last layer gave.
    """

    may_repeat: set[str] | None
    last: Tensor
    sites: list[Site] = field(default_factory=list)
    unusable: list[Site] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._values = self.last.clone()

    def add(self, site: Site, value: Any, call: int) -> None:
        """Look at what a layer gives in its ``call``-th call."""
        tensor = _only_tensor(value)
        name = f"{site.name}#{call + 1}" if call else site.name
        if any(name == known.name for known in self.sites):
            return
        if tensor is None or len(tensor) != _NUM_IMAGES or tensor.ndim not in (2, 3, 4):
            self.unusable.append(site)
        elif not self._is_repeated(site, tensor):
            self.sites.append(replace(site, name=name, call=call, shape=tuple(tensor.shape[1:])))
            self.last, self._values = tensor, tensor.clone()

    def _is_repeated(self, site: Site, tensor: Tensor) -> bool:
        """Return whether a tensor is the last one, not changed in place since."""
        if self.may_repeat is None or (site.module and not site.reads_input and site.module not in self.may_repeat):
            return False
        is_same = tensor.data_ptr() == self.last.data_ptr() and tensor.shape == self._values.shape
        return is_same and torch.equal(tensor, self._values)


def _only_tensor(value: Any) -> Tensor | None:
    """Return a tensor, or the only one of a tuple: tokens first, then what a block passes on beside them."""
    if isinstance(value, (tuple, list)):
        tensors = [one for one in value if isinstance(one, Tensor)]
        value = tensors[0] if len(tensors) == 1 else None
    return value if isinstance(value, Tensor) and value.ndim else None


@torch.no_grad()
def _run(subject: Subject, sites: Sequence[Site], images: Tensor, look: Callable[[Site, Any, int], None]) -> None:
    model: Any = subject.model
    with _hooked(model, sites, look):
        features = model.forward_features(images)
    for site in sites:
        if not site.module:
            look(site, features, 0)


@contextmanager
def _hooked(model: nn.Module, sites: Sequence[Site], look: Callable[[Site, Any, int], None]) -> Iterator[None]:
    by_place: dict[tuple[str, bool], list[Site]] = {}
    for site in sites:
        if site.module:
            by_place.setdefault((site.module, site.reads_input), []).append(site)
    handles = []
    try:
        for (path, reads_input), here in by_place.items():
            module = model.get_submodule(path)
            if reads_input:
                handles.append(module.register_forward_pre_hook(_reader(here, look)))
            else:
                handles.append(module.register_forward_hook(_reader(here, look)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reader(sites: Sequence[Site], look: Callable[[Site, Any, int], None]) -> Any:
    """Return a hook that hands on what it sees: a module's first argument, or its output."""
    calls = 0

    def read(_module: nn.Module, args: Any, *output: Any) -> None:
        nonlocal calls
        value = output[0] if output else (args[0] if args else None)
        for site in sites:
            look(site, value, calls)
        calls += 1

    return read


# --- tokens


def _with_tokens(sites: Sequence[Site], units: Sequence[Unit], subject: Subject, *, is_flat: bool) -> tuple[Site, ...]:
    """Return the sites with their number of tokens: that of their block, whatever its inner layers transpose.

    Inner layers of a block of tokens with another dimension, such as norms of each head's queries, are left out.
    """
    tokens_of_unit = {
        unit.path: site.shape[0]
        for unit in units
        for site in sites
        if site.module == unit.path and not site.reads_input and len(site.shape) == 2
    }
    found = []
    for site in sites:
        unit_path = next((unit.path for unit in units if f"{site.module}.".startswith(f"{unit.path}.")), None)
        if unit_path in tokens_of_unit and len(site.shape) > 2:
            continue
        num_tokens = tokens_of_unit.get(unit_path or "", site.shape[0]) if len(site.shape) == 2 else None
        if site.reads_input and site.name in (EMBED, STEM) and len(site.shape) == 2:
            num_tokens = site.shape[0]
        num_prefix = 0 if num_tokens is None else _num_prefix(num_tokens, subject, is_flat=is_flat)
        found.append(replace(site, num_tokens=num_tokens, num_prefix=num_prefix))
    return tuple(found)


def _num_prefix(num_tokens: int, subject: Subject, *, is_flat: bool) -> int | None:
    """Return how many of a layer's tokens are prefix tokens; None where the model does not tell."""
    declared = num_expected_prefix_tokens(subject.model)
    grid = subject.geometry.grid or getattr(getattr(subject.model, "patch_embed", None), "grid_size", None)
    if not declared:
        return 0
    if grid is None:
        return declared if is_flat else None
    return {declared + math.prod(grid): declared, math.prod(grid): 0}.get(num_tokens)
