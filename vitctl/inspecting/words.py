"""An analysis in words: what it asks, what to look for, what random weights would show, and which figure it follows.

In these words V is arXiv 2010.11929 ("An image is worth 16x16 words"), R is arXiv 2108.08810 ("Do vision transformers
see like convolutional neural networks?").
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Words:
    """An analysis in words, and what it takes.

    Attributes:
        place: Of lists and the report; smaller numbers come first.
        title: A heading.
        question: What it asks of the model.
        method: How the numbers come about.
        look_for: What a trained model shows, and what to look for.
        random_weights: What the same picture shows for random weights.
        source: Figure or section of the papers.
        example: What stands behind the name on a command line.
        needs_attention: Whether it needs one grid of tokens with attention between them in every block.
        most_models: How many models it looks at together; 1: at each alone.
        is_controlled: Whether ``vitctl inspect all`` makes it of random weights too, for ``judge``.
    """

    place: int
    title: str
    question: str
    method: str
    look_for: str
    random_weights: str
    source: str
    example: str = "runs/photos"
    needs_attention: bool = False
    most_models: int = 1
    is_controlled: bool = False
