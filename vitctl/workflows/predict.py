"""``vitctl predict``: the most probable classes of image files, in the order they were given."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.data.endings import left_out_sentence, together
from vitctl.data.files import list_images, read_batches
from vitctl.data.transforms import EvaluationTransform
from vitctl.evaluation.classify import predict_logits, probabilities
from vitctl.models.prepared import open_model
from vitctl.primitives.devices import enough_memory, resolve_device
from vitctl.results.predict import ClassProbability, Prediction, PredictResult, SkippedImage
from vitctl.settings.predict import PredictConfig


def run(config: PredictConfig, conversation: Conversation) -> PredictResult:
    """Return the predictions in input order, and what was skipped.

    Raises:
        VitctlError: The model cannot be used, or a folder holds no image.
    """
    device, _ = resolve_device(config.device)
    listed = {given: list_images(given) for given in config.images}
    paths = [path for given in config.images for path in listed[given][0]]
    left_out = together(*(others for _, others in listed.values()))
    spec = config.run or config.model or ""
    conversation.line(f"loading {spec}")
    opened = open_model(spec, weights=config.weights, model_args=config.model_args)
    names = [opened.loaded.class_descriptions.get(name, name) for name in opened.class_names]
    for note in (*opened.notes, *([left_out_sentence(left_out)] if left_out else [])):
        conversation.warn(note)
    predictions: list[Prediction] = []
    skipped = [SkippedImage(given, "a folder that holds no image") for given, (found, _) in listed.items() if not found]
    model = opened.model.to(device)
    transform = EvaluationTransform(opened.preprocessing)
    memory = enough_memory(device, config.batch_size)
    with memory, conversation.progress("predicting", len(paths), "images") as bar:
        for batch in read_batches(paths, transform, batch_size=config.batch_size):
            good = [(path, item) for path, item in batch if isinstance(item, Tensor)]
            skipped += [SkippedImage(path, item) for path, item in batch if isinstance(item, str)]
            if good:
                logits = predict_logits(
                    model,
                    [torch.stack([tensor for _, tensor in good])],
                    device=device,
                    num_images=len(good),
                    description="",
                    conversation=Conversation(),
                )
                for (path, _), shares in zip(good, probabilities(logits), strict=True):
                    predictions.append(Prediction(path, top_classes(shares, names, config.top_k)))
            bar.advance(len(batch))
    return PredictResult(predictions=tuple(predictions), skipped=tuple(skipped), left_out=left_out)


def top_classes(shares: np.ndarray, names: Sequence[str], top_k: int) -> tuple[ClassProbability, ...]:
    """Return the ``top_k`` most probable classes of one image, most probable first.

    Args:
        shares: (C,) probabilities.
        names: C words for the classes.
        top_k: >= 1; more than C gives C.
    """
    order = np.argsort(-shares, kind="stable")[:top_k]
    return tuple(ClassProbability(names[index], float(shares[index])) for index in order)
