"""Building blocks of training: parameter groups, the loop of optimiser steps, the run folder."""

from vitctl.primitives.torchvision_operators import declare_missing_operators

declare_missing_operators()
