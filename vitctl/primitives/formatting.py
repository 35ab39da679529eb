"""Numbers as people read them: bytes, seconds, counts; values of settings; names that are too long."""

import json


def format_setting(value: object) -> str:
    """Return a setting's value, of those that JSON has, as a person writes it.

    Example:
        >>> format_setting(None), format_setting(True), format_setting([0.9, 0.999]), format_setting("full")
        ('none', 'true', '[0.9, 0.999]', 'full')
    """
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def format_number(number: float, noun: str) -> str:
    """Return how many there are, with a noun of which several have an s.

    Example:
        >>> format_number(1, "thread"), format_number(2000, "run"), format_number(1.9, "point")
        ('1 thread', '2,000 runs', '1.9 points')
    """
    return f"{number:,.12g} {noun}{'s' * (number != 1)}"


def format_bytes(num_bytes: float) -> str:
    """Return e.g. ``"1.5 GiB"``.

    Example:
        >>> format_bytes(1536)
        '1.5 KiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"


def format_seconds(seconds: float) -> str:
    """Return e.g. ``"45 s"``, ``"3 min 20 s"``, ``"2 h 05 min"``.

    Example:
        >>> format_seconds(200)
        '3 min 20 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_age(seconds: float) -> str:
    """Return how long ago something was, to the unit that matters: ``"12 s"``, ``"3 min"``, ``"5 h"``, ``"2 days"``.

    Example:
        >>> format_age(7_400)
        '2 h'
    """
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds < 59.5 else "1 min"
    for unit, length, following in (("min", 60, 3600), ("h", 3600, 86_400)):
        if round(seconds / length) * length < following:
            return f"{round(seconds / length)} {unit}"
    days = round(seconds / 86_400)
    return "1 day" if days == 1 else f"{days:,} days"


def format_count(number: float) -> str:
    """Return e.g. ``"686 k"``, ``"85.8 M"``, ``"17.6 G"``.

    Example:
        >>> format_count(686_000)
        '686 k'
    """
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} T"


def format_rounded(number: float) -> str:
    """Return a number that is not negative in three digits, or from 1,000 on whole: ``"2.67"``, ``"2,667"``.

    Example:
        >>> format_rounded(2_666.7)
        '2,667'
    """
    return f"{number:,.0f}" if number >= 999.5 else f"{number:.3g}"


def cut_middle(text: str, most: int) -> str:
    """Return ``text``, without its middle if it is longer than ``most``: names of a family differ at their ends.

    Args:
        text: A name.
        most: Characters, >= 3.

    Example:
        >>> cut_middle("vit_small_patch16_224", 11)
        'vit_s…6_224'
    """
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
