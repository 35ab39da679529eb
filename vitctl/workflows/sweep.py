"""``vitctl sweep``."""

from vitctl.conversation import Conversation
from vitctl.results.sweep import SweepDryRunResult, SweepResult
from vitctl.settings.sweep import SweepConfig


def run(config: SweepConfig, conversation: Conversation) -> SweepResult | SweepDryRunResult:
    """Not there yet."""
    raise NotImplementedError
