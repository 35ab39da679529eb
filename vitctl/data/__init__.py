"""Images and labels: where they come from, whether they are sound, how they are split and batched."""

from vitctl.primitives.torchvision_operators import declare_missing_operators

declare_missing_operators()
