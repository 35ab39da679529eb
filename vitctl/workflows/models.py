"""``vitctl models``: the names ``--model`` takes, and what is behind them."""

from vitctl.conversation import Conversation
from vitctl.models.catalogue import build_entry, find_models
from vitctl.results.models import ModelsResult
from vitctl.settings.models import ModelsConfig


def run(config: ModelsConfig, conversation: Conversation) -> ModelsResult:
    """Return every name, or those that match a pattern with what is behind them; more of it where they are built.

    Raises:
        ModelError: Nothing matches the pattern.
    """
    found = find_models(config.pattern)
    if config.long or found[0].name == config.pattern:
        found = list(conversation.track(map(build_entry, found), "building models", len(found), "models"))
    return ModelsResult(models=tuple(found))
