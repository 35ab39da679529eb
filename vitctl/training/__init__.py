"""Building blocks of fine-tuning: plan, state, steps, validation, the run folder."""

from vitctl.primitives.torchvision_operators import declare_missing_operators

declare_missing_operators()
