"""Facts that must stand in two places (plain Python here, beside the code that acts there) agree."""

from vitctl import config
from vitctl.data.transforms import CROPS
from vitctl.evaluation.features import POOLS
from vitctl.evaluation.fewshot import CLASSIFIERS
from vitctl.evaluation.ridge import BALANCES
from vitctl.exporting import formats, npz, source
from vitctl.exporting.verification import TOLERANCES
from vitctl.models.build import DEMO
from vitctl.primitives.devices import DEVICES
from vitctl.primitives.position_embeddings import METHODS
from vitctl.recipes import Recipe, keys_of
from vitctl.training.decisions import DEMO_MODEL


def test_choices_agree() -> None:
    assert tuple(METHODS) == config.INTERPOLATIONS == keys_of(Recipe)["images.pos_embed_interp"].choices
    assert CROPS == keys_of(Recipe)["images.crop"].choices
    assert DEVICES == config.DEVICES
    assert CLASSIFIERS == config.FEWSHOT_CLASSIFIERS
    assert BALANCES == config.BALANCES
    assert POOLS == config.POOLS
    assert DEMO == DEMO_MODEL
    assert formats.FORMATS == config.EXPORT_FORMATS
    assert formats.GRAPH_FORMATS == config.GRAPH_FORMATS
    assert source.OUTPUTS == config.OUTPUTS
    assert npz.LAYOUTS == config.NPZ_LAYOUTS
    assert tuple(TOLERANCES) == config.PRECISIONS
