"""Settings back as words of the command line: what a person would type for them, and what a sweep starts."""

from collections.abc import Mapping
from typing import Any

from vitctl.settings.option import Settings, described, option_of


def arguments_of(settings: type[Settings], given: Mapping[str, Any]) -> list[str]:
    """Return the arguments that give a command the settings ``given``, in the order of its help page.

    Args:
        settings: The settings of the command.
        given: Values by field, as ``Settings`` holds them. None, and what no option sets, is left out.

    Example:
        >>> from vitctl.settings.finetune import FinetuneConfig
        >>> arguments_of(FinetuneConfig, {"lr": 0.001, "flip": False, "image_size": (48, 48), "freeze": ("pos", "cls")})
        ['--image-size', '48', '--lr', '0.001', '--no-flip', '--freeze', 'pos', '--freeze', 'cls']
    """
    arguments, positional = list[str](), list[str]()
    for name, one in described(settings).items():
        value = given.get(name)
        if one.opt is None or value is None:
            continue
        if one.opt.parse is not None:
            value = one.opt.spell(value)
        texts = [str(entry) for entry in value] if isinstance(value, tuple | list) else [str(value)]
        if one.opt.is_argument:
            positional += texts
        elif isinstance(value, bool):
            arguments += _switch(name, value, one.opt.flags)
        else:
            # one word with '=' also where the value begins with a dash
            arguments += [
                word
                for text in texts
                for word in ([f"{option_of(name)}={text}"] if text.startswith("-") else [option_of(name), text])
            ]
    return [*arguments, *(["--", *positional] if any(text.startswith("-") for text in positional) else positional)]


def _switch(name: str, value: bool, flags: tuple[str, ...]) -> list[str]:
    """Return the flag that says ``value``; a switch without an opposite is left out to say no."""
    on, _, off = flags[0].partition("/") if flags else (option_of(name), "", "")
    return [on] if value else [off] if off else []
