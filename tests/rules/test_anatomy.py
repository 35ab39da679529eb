"""What parts of timm's models are called is said in the two files of their anatomy, and asked of them elsewhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOMES = {Path("models/anatomy.py"), Path("models/block_anatomy.py")}

# attributes of timm's models and blocks, as x.name or as a string; not among them what vitctl calls other things, too
NAMES = {
    "cls_token", "reg_token", "dist_token", "num_reg_tokens", "no_embed_class", "cls_attn_blocks", "blocks_token_only",
    "norm_pre", "fc_norm", "attn_pool", "attn", "attns", "ffns", "in_proj", "mlp", "mlp_tokens", "linear_tokens",
    "mlp_channels", "norm1", "norm2", "in_norm", "ls1", "ls2", "layer_scale1", "layer_scale2", "gamma_1", "gamma_2",
    "drop_path", "drop_path1", "drop_path2", "res_scale1", "res_scale2", "bn2", "bn3", "blocks", "stages",
    "token_mixer", "downsample", "shortcut", "num_prefix_tokens",
}  # fmt: skip
OUR_ATTRIBUTES = {"num_prefix_tokens"}  # as attributes they are of our own classes: Geometry
OUR_WORDS = {"mlp", "blocks", "stages"}  # as strings they are for people: a branch, what is drawn

# file: names it may say, and why
ALLOWED = {
    # names of the tensors that it writes, and of an argument of timm's; .norm2 and .mlp are its table of Flax names
    Path("exporting/npz.py"): {"cls_token", "no_embed_class", "norm2", "mlp"},
    Path("models/transformers_names.py"): {"cls_token", "dist_token", "norm1", "norm2"},  # names of tensors in files
    Path("models/transformers_model.py"): {"no_embed_class"},  # an argument of timm's
    Path("models/layouts.py"): {"cls_token", "dist_token", "reg_token"},  # names of tensors in files
    Path("models/weights_hints.py"): {"cls_token", "reg_token"},  # the same
    Path("inspecting/representations.py"): {"norm1", "norm2", "token_mixer"},  # the fields of BlockParts
}


def names_said(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of every attribute and string that is one of timm's names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in NAMES - OUR_ATTRIBUTES:
            yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and node.value in NAMES - OUR_WORDS:
            yield node.lineno, str(node.value)


def test_names_of_parts_stand_in_their_homes(package: dict[Path, ast.Module]) -> None:
    assert set(package) >= HOMES | set(ALLOWED)
    found = [
        f"{path}:{line}: {name} is for {' or '.join(map(str, sorted(HOMES)))} to say"
        for path, tree in package.items()
        if path not in HOMES
        for line, name in names_said(tree)
        if name not in ALLOWED.get(path, ())
    ]
    assert not found, "\n".join(found)


def test_every_exception_is_needed(package: dict[Path, ast.Module]) -> None:
    for path, names in ALLOWED.items():
        assert {name for _, name in names_said(package[path])} >= names, path


def test_homes_say_every_name(package: dict[Path, ast.Module]) -> None:
    said = {name for path in HOMES for _, name in names_said(package[path])}
    assert said >= NAMES - OUR_WORDS - {"dist_token", "reg_token", "gamma_1", "gamma_2"}  # which none needs so far


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        ("token = model.cls_token", "cls_token"),
        ('norm = getattr(model, "fc_norm", None)', "fc_norm"),
        ('ENDS = ("drop_path1", "other")', "drop_path1"),
        ("for block in vit.blocks: pass", "blocks"),
        ("width = block.attn.qkv.in_features", "attn"),
    ],
)
def test_the_check_can_fail(planted: str, name: str) -> None:
    assert [said for _, said in names_said(ast.parse(planted))] == [name]
    assert not list(names_said(ast.parse('words = "the blocks and the mlp"; tap.attention; x = "mlp"')))
