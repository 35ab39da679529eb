"""timm's Vision Transformers: build, load weights, change resolution, save, describe."""

from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.torchvision_operators import declare_missing_operators

declare_missing_operators()
with compiler_later():
    import timm  # noqa: F401
