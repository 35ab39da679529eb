"""Facts that must stand in two places (plain Python here, beside the code that acts there) agree."""

from vitctl import config, recipes
from vitctl.data.transforms import CROPS
from vitctl.primitives.devices import DEVICES
from vitctl.primitives.position_embeddings import METHODS


def test_choices_agree() -> None:
    assert tuple(METHODS) == config.INTERPOLATIONS == recipes._CHOICES["pos_embed_interp"]
    assert CROPS == recipes._CHOICES["crop"]
    assert DEVICES == config.DEVICES
