"""Settings of ``vitctl predict``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.settings.groups import Device, ModelArguments, NamedModel
from vitctl.settings.option import Opt, Settings, at_least


@dataclass(frozen=True, kw_only=True)
class _Amounts(Settings):
    top_k: Annotated[int, Opt("Classes per image.", "K", limits=(at_least(1),))] = 5
    batch_size: Annotated[int, Opt("Images at a time.", "N", limits=(at_least(1),))] = 64


@dataclass(frozen=True, kw_only=True)
class PredictConfig(NamedModel, ModelArguments, _Amounts, Device):
    """Settings of ``vitctl predict``; the command makes ``run`` and ``images`` of what stands after it."""

    run: str | None = None
    """A run folder (its best/ is used) or a timm folder."""
    images: tuple[str, ...] = ()
    """Image files and folders, in the order of the answer."""

    def check_together(self) -> None:
        """Check that there is one model, and an image."""
        super().check_together()
        self.check_one_model(self.run)
        if not self.images:
            raise SettingError("No image is given; expected image files or folders after the run.", field="images")
