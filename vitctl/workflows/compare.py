"""``vitctl compare``."""

from vitctl.conversation import Conversation
from vitctl.results.compare import CompareResult
from vitctl.settings.compare import CompareConfig


def run(config: CompareConfig, conversation: Conversation) -> CompareResult:
    """Not there yet."""
    raise NotImplementedError
