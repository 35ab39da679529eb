"""From a model or its features to results: embed, fit, score, record.

Letters: N support rows, M test rows, T tokens, D width.
"""

from collections.abc import Mapping

import numpy as np

from vitctl.conversation import Conversation
from vitctl.evaluation.embedding import Cost, Embedder
from vitctl.evaluation.episodes import solve_episodes
from vitctl.evaluation.features import FeatureKey, check_memory
from vitctl.evaluation.fewshot import Probe
from vitctl.evaluation.probing import needs_sums_only, solve_linear, stream_ridge
from vitctl.evaluation.results import Record
from vitctl.evaluation.tasks import ImageTask, LinearPlan, Plan, Task


class Scorer:
    """Scores features by few-shot classifiers.

    Args:
        plan: What is drawn.
        probe: The classifier.
        record: Gets the results.
        cost: Gets what it takes.
        conversation: Shows progress.
    """

    def __init__(self, plan: Plan, probe: Probe, *, record: Record, cost: Cost, conversation: Conversation) -> None:
        self._plan, self._probe, self._record, self._cost = plan, probe, record, cost
        self._conversation = conversation

    def score_model(self, embedder: Embedder, task: ImageTask, *, name: str, keeps_features: bool) -> None:
        """Embed the images of a task and score their features; of several processes the first scores.

        Args:
            embedder: The model, on its device.
            task: The images.
            name: Of the model, in results.
            keeps_features: Whether the cache wants the features of the pool; else they are not held where sums will do.

        Raises:
            SettingError: The features do not fit into memory.
        """
        used, is_in_memory = task.used, task.images.is_in_memory
        is_summed = not keeps_features and needs_sums_only(self._probe, self._plan)
        check_memory(embedder.bytes_of_an_image * (len(used.test) + (0 if is_summed else len(used.support))))
        test = embedder.embed(used.test, used.test_hashes, is_in_memory=is_in_memory)
        if is_summed:
            self._score_sums(embedder, task, test, name=name)
            return
        support = embedder.embed(used.support, used.support_hashes, is_in_memory=is_in_memory)
        if not embedder.has_features:
            return
        self.score_features(support, test, task, name=name)
        self._cost.images_skipped += task.num_images - len(used.support) - len(used.test)

    def _score_sums(
        self, embedder: Embedder, task: ImageTask, test: dict[FeatureKey, np.ndarray], *, name: str
    ) -> None:
        """Embed the whole pool and add it up on the way; ``test`` has (M, D) or (T, M, D) float32 by key."""
        batches = embedder.stream(task.used.support, is_in_memory=task.images.is_in_memory)
        if not embedder.has_features:
            for _ in batches:
                pass
            return
        with self._cost.embedding():
            solved = stream_ridge(
                batches,
                task.labels,
                test,
                task.test_labels,
                probe=self._probe,
                num_classes=len(task.class_names),
                conversation=self._conversation,
            )
        for key, found in solved.items():
            self._record.add(task, name, key, test[key], found, self._probe)

    def score_features(
        self,
        support: Mapping[FeatureKey, np.ndarray],
        test: Mapping[FeatureKey, np.ndarray],
        task: Task,
        *,
        name: str | None,
    ) -> None:
        """Fit, score and record the classifiers of every layer and pooling.

        Args:
            support: (N, D) real, or (T, N, D), by layer and pooling.
            test: (M, D) real, or (T, M, D), likewise.
            task: Labels, draws or episodes.
            name: Of the model, in results; None for features from a file.
        """
        plan, probe = self._plan, self._probe
        with self._cost.solving():
            if isinstance(plan, LinearPlan):
                for key, solved in solve_linear(task, support, test, plan, probe, self._conversation):
                    self._record.add(task, name, key, test[key], solved, probe)
            else:
                for key, found in solve_episodes(task, support, test, plan, probe, self._conversation):
                    self._record.add_episodes(task, name, key, test[key], found, probe)
