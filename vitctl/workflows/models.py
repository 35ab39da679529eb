"""``vitctl models``: the names ``--model`` takes, and what is behind them."""

from dataclasses import asdict
from typing import Any

from vitctl.conversation import Conversation
from vitctl.models.catalogue import describe_model, model_names
from vitctl.settings.models import ModelsConfig


def run(config: ModelsConfig, conversation: Conversation) -> dict[str, Any]:
    """Return the ``--json`` document: every name, or with a pattern the details of those that match.

    Raises:
        ModelError: Nothing matches the pattern.
    """
    names = model_names(config.pattern)
    if config.pattern is None:
        return {"models": [{"name": name} for name in names]}
    shown = conversation.track(map(describe_model, names), "building models", len(names), "models")
    return {"models": [asdict(entry) for entry in shown]}
