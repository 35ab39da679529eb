"""``vitctl guide [TOPIC]`` on the command line."""

from typing import Annotated

import typer

from vitctl.cli.options import JsonOption
from vitctl.cli.output import is_terminal, print_columns, print_document, print_json
from vitctl.errors import SettingError
from vitctl.guides import ENGLISH, list_guides, read_guide
from vitctl.results.guide import GuideEntry, GuideResult, GuidesResult

EXAMPLES = """\
Examples:

\b
  vitctl guide                list the guides
  vitctl guide data           read one
  vitctl guide data | less    as plain Markdown
"""
WIDEST = 120  # columns: the widest screens that the guides show


def guide(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="A guide of the list.", show_default=False)
    ] = None,
    lang: Annotated[str, typer.Option(metavar="LANG", help="Language, where a guide has several.")] = ENGLISH,
    as_json: JsonOption = False,
) -> None:
    """Read the guides: what each command does, how to read its results, why it is done that way.

    Without a topic lists them. In a terminal the text is laid out, elsewhere it is plain Markdown.
    """
    if topic is None:
        if lang != ENGLISH:
            raise SettingError(
                f"--lang {lang} needs a TOPIC; 'vitctl guide' lists them with their languages.", field="lang"
            )
        _list(as_json)
        return
    text = read_guide(topic, lang)
    if as_json:
        print_json(GuideResult(name=topic, lang=lang, text=text))
    elif is_terminal():
        _lay_out(text)
    else:
        print_document(text.encode("utf-8"))  # the same bytes whatever the encoding of stdout


def _list(as_json: bool) -> None:
    guides = list_guides()
    if as_json:
        entries = (GuideEntry(name=one.name, about=one.about, languages=tuple(one.languages)) for one in guides)
        print_json(GuidesResult(guides=tuple(entries)))
    else:
        others = [", ".join(one.languages) if len(one.languages) > 1 else "" for one in guides]
        print_columns(
            ("guide", "about", ""), [(one.name, one.about, other) for one, other in zip(guides, others, strict=True)]
        )


def _lay_out(text: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.width > WIDEST:
        console.width = WIDEST
    console.print(Markdown(text, code_theme="ansi_dark", hyperlinks=False))
