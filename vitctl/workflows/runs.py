"""``vitctl runs``."""

from vitctl.conversation import Conversation
from vitctl.results.runs import RunsResult
from vitctl.settings.runs import RunsConfig


def run(config: RunsConfig, conversation: Conversation) -> RunsResult:
    """Not there yet."""
    raise NotImplementedError
