"""``vitctl models``: the names ``--model`` takes, and what is behind them."""

from vitctl.conversation import Conversation
from vitctl.models.catalogue import describe_model, model_names
from vitctl.results.models import ModelEntry, ModelsResult
from vitctl.settings.models import ModelsConfig


def run(config: ModelsConfig, conversation: Conversation) -> ModelsResult:
    """Return every name, or with a pattern the details of those that match.

    Raises:
        ModelError: Nothing matches the pattern.
    """
    names = model_names(config.pattern)
    if config.pattern is None:
        return ModelsResult(models=tuple(map(ModelEntry, names)))
    shown = conversation.track(map(describe_model, names), "building models", len(names), "models")
    return ModelsResult(models=tuple(shown))
