"""The analyses of ``vitctl inspect``, found by listing ``vitctl/inspecting/analyses``; imports no torch.

An analysis is a module with four names, see there; its name is that of the file, with dashes.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitctl.errors import SettingError, check_choice
from vitctl.inspecting import analyses
from vitctl.inspecting.verdicts import Judged
from vitctl.inspecting.words import Words
from vitctl.results.inspect_model import Verdict
from vitctl.settings.inspect_model import InspectAllConfig, InspectConfig, OnImages, OnPictures
from vitctl.settings.option import Described, described, option_of
from vitctl.settings.reading import values_from_python
from vitctl.settings.words import ALL

if TYPE_CHECKING:
    from vitctl.inspecting.findings import Findings


@dataclass(frozen=True)
class Analysis:
    """An analysis.

    Attributes:
        name: On the command line.
        options: The class of its settings.
        words: What it asks, and what to look for.
        analyse: From its settings, the conversation and a view (two, of an analysis of pairs) to findings.
        judge: From findings, and those of random weights or None, to verdicts.
    """

    name: str
    options: type[InspectConfig]
    words: Words
    analyse: Callable[..., "Findings"]
    judge: Callable[["Findings", "Findings | None"], list[Judged]]

    def options_for(self, config: InspectConfig) -> InspectConfig:
        """Return the settings of this analysis in ``vitctl inspect all``.

        Raises:
            SettingError: It takes another number of models.
        """
        if isinstance(config, self.options):
            return config
        known = described(self.options)
        values = {name: getattr(config, name) for name in config.given if name in known}
        if self.words.most_models > 1:
            values |= config.first_models(self.words.most_models)
        if issubclass(self.options, OnImages) and self.options.most_in_report and values.get("num_images"):
            values["num_images"] = min(values["num_images"], self.options.most_in_report)
        return self.options(**values)

    def verdicts(self, found: "Findings", control: "Findings | None") -> list[Verdict]:
        """Return what is claimed of this analysis, held against what it found, and found in random weights."""
        return [Verdict(self.name, one.claim, one.verdict, one.numbers) for one in self.judge(found, control)]


@cache
def catalogue() -> Mapping[str, Analysis]:
    """Return every analysis by name, in the order of lists and the report."""
    found = [_load(info.name) for info in pkgutil.iter_modules(analyses.__path__)]
    return {one.name: one for one in sorted(found, key=lambda one: (one.words.place, one.name))}


def _load(module_name: str) -> Analysis:
    module = import_module(f"{analyses.__name__}.{module_name}")
    return Analysis(module_name.replace("_", "-"), module.Options, module.WORDS, module.analyse, module.judge)


def settings_classes() -> dict[str, type[InspectConfig]]:
    """Return the settings of every analysis, and of all together, by what stands behind ``vitctl inspect``."""
    return {**{name: one.options for name, one in catalogue().items()}, ALL: InspectAllConfig}


@cache
def every_setting() -> Mapping[str, Described]:
    """Return the settings of all analyses by name: first those that many share."""
    found = dict(described(OnPictures))
    for settings in settings_classes().values():
        found |= {name: one for name, one in described(settings).items() if name not in found}
    last = InspectConfig.last
    return {**{name: one for name, one in found.items() if name not in last}, **{name: found[name] for name in last}}


def settings_as_json(config: InspectConfig, *, without: tuple[str, ...]) -> dict[str, Any]:
    """Return ``config`` as JSON holds it, with the settings of other analyses at their defaults."""
    own = config.as_json()
    return {
        name: own[name] if name in own else one.as_json(one.default)
        for name, one in every_setting().items()
        if name not in without
    }


def settings_from_python(analysis: str, values: Mapping[str, Any], *, where: str) -> InspectConfig:
    """Return the settings of an analysis that a caller in Python means.

    Raises:
        SettingError: There is no such analysis; a name or a value cannot be used, or is for another analysis.
    """
    classes = settings_classes()
    settings = classes[check_choice(analysis, classes, what="ANALYSIS", field="analysis")]
    foreign = [name for name in values if name in every_setting() and name not in described(settings)]
    for name in foreign:
        if values[name] is not None:
            takers = [other for other, one in classes.items() if name in described(one)]
            why = "which looks at weights only" if name in described(OnImages) else f"and is for {', '.join(takers)}"
            raise SettingError(f"{option_of(name)} is given to {analysis}, {why}; leave it out.", field=name)
    plain = values_from_python(
        settings, {name: one for name, one in values.items() if name not in foreign}, where=where
    )
    return settings(**plain)
