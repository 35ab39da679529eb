"""Images of the sets that are letters: Greek, and Japanese hiragana, across families of fonts."""

import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont
from sets_packages import archive_of, files_in
from sets_pictures import Picture

SIZE, HEIGHT = 64, 42  # px: of the picture, and of the font's em

GREEK = dict(
    zip(
        "αβγδεζηθικλμνξοπρστυφχψω",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi "
        "chi psi omega".split(),
        strict=True,
    )
)
HIRAGANA = dict(
    zip(
        "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん",
        "a i u e o ka ki ku ke ko sa shi su se so ta chi tsu te to na ni nu ne no ha hi fu he ho ma mi mu me mo ya "
        "yu yo ra ri ru re ro wa wo n".split(),
        strict=True,
    )
)

Fonts = dict[str, dict[str, str]]
"""Split: package: names of its font files."""

GREEK_FONTS: Fonts = {
    "train": {
        "fonts-anonymous-pro": "Anonymous Pro.ttf|Anonymous Pro I.ttf",
        "fonts-cardo": "Cardo104s.ttf",
        "fonts-cmu": "cmunrm.ttf|cmunss.ttf|cmunti.ttf",
        "fonts-comfortaa": "Comfortaa-Regular.ttf",
        "fonts-dejavu-core": "DejaVuSans.ttf|DejaVuSans-Bold.ttf|DejaVuSerif.ttf",
        "fonts-dejavu-extra": "DejaVuSansMono-Oblique.ttf|DejaVuSerif-Italic.ttf",
        "fonts-freefont-ttf": "FreeMono.ttf|FreeSans.ttf|FreeSansBold.ttf|FreeSerif.ttf|FreeSerifItalic.ttf",
        "fonts-gfs-artemisia": "GFSArtemisia.otf|GFSArtemisiaBoldIt.otf",
        "fonts-gfs-bodoni-classic": "GFSBodoniClassic.otf",
        "fonts-gfs-didot": "GFSDidot.otf|GFSDidotItalic.otf",
        "fonts-gfs-neohellenic": "GFSNeohellenic.otf|GFSNeohellenicBoldIt.otf",
        "fonts-gfs-olga": "GFSOlga.otf",
        "fonts-gfs-porson": "GFSPorson.otf",
        "fonts-liberation2": "LiberationMono-Bold.ttf|LiberationSans-Regular.ttf|LiberationSerif-Italic.ttf",
        "fonts-linuxlibertine": "LinBiolinum_RB.otf|LinLibertine_R.otf|LinLibertine_RI.otf",
        "fonts-open-sans": "OpenSans-Regular.ttf|OpenSans-BoldItalic.ttf",
        "fonts-roboto-slab": "RobotoSlab-Bold.otf",
        "fonts-roboto-unhinted": "Roboto-Regular.ttf|Roboto-BlackItalic.ttf",
        "fonts-sil-gentiumplus": "GentiumPlus-Regular.ttf|GentiumPlus-Italic.ttf",
    },
    "test": {
        "fonts-3270": "3270-Regular.ttf",
        "fonts-cantarell": "Cantarell-Bold.otf",
        "fonts-crosextra-carlito": "Carlito-Regular.ttf|Carlito-BoldItalic.ttf",
        "fonts-firacode": "FiraCode-Regular.ttf",
        "fonts-gfs-baskerville": "GFSBaskerville.otf",
        "fonts-gfs-complutum": "GFSPolyglot.otf",
        "fonts-gfs-gazis": "GFSGazis.otf",
        "fonts-gfs-solomos": "GFSSolomos.otf",
        "fonts-gfs-theokritos": "GFSTheokritos.otf",
        "fonts-go": "Go-Regular.ttf|Go-Mono-Bold-Italic.ttf",
        "fonts-inter": "Inter-Black.otf|Inter-Italic.otf",
        "fonts-jetbrains-mono": "JetBrainsMono-Regular.ttf",
        "fonts-junicode": "JunicodeTwoBeta-Regular.otf|JunicodeTwoBeta-BoldItalic.otf",
        "fonts-jura": "Jura-Regular.otf",
        "fonts-monoid": "Monoid-Italic.ttf",
        "fonts-mononoki": "mononoki-Regular.ttf|mononoki-Bold-Italic.ttf",
        "fonts-oldstandard": "OldStandard-Regular.ttf|OldStandard-Italic.ttf",
        "fonts-play": "Play-Bold.ttf",
        "fonts-sil-galatia": "GalSILR.ttf",
    },
}
"""Families that go back to one another are on one side: Liberation, FreeFont and URW's; DejaVu and what it became."""

KANA_FONTS: Fonts = {
    "train": {
        "fonts-aoyagi-soseki": "aoyagi-soseki.ttf",
        "fonts-dotgothic16": "DotGothic16-Regular.ttf",
        "fonts-horai-umefont": "ume-tgo4.ttf|ume-tmo3.ttf",
        "fonts-ipaexfont-gothic": "ipaexg.ttf",
        "fonts-ipaexfont-mincho": "ipaexm.ttf",
        "fonts-kiloji": "kiloji.ttf",
        "fonts-kouzan-mouhitsu": "kouzan-mouhitsu.ttf|kouzan-mouhitsu-gyosho.ttf",
        "fonts-migmix": "migmix-1p-bold.ttf|migmix-1p-regular.ttf|migmix-2p-regular.ttf",
        "fonts-morisawa-bizud-gothic": "BIZUDGothic-Bold.ttf|BIZUDGothic-Regular.ttf",
        "fonts-morisawa-bizud-mincho": "BIZUDMincho-Regular.ttf",
        "fonts-motoya-l-cedar": "MTLc3m.ttf",
        "fonts-motoya-l-maruberi": "MTLmr3m.ttf",
        "fonts-sawarabi-gothic": "sawarabi-gothic-medium.ttf",
        "fonts-sawarabi-mincho": "sawarabi-mincho-medium.ttf",
        "fonts-seto": "setofont.ttf",
        "fonts-yusei-magic": "YuseiMagic-Regular.ttf",
    },
    "test": {
        "fonts-dejima-mincho": "dejima-mincho-r227.ttf",
        "fonts-hanazono": "HanaMinA.ttf",
        "fonts-kanjistrokeorders": "KanjiStrokeOrders_v4.003.ttf",
        "fonts-konatu": "Konatu.ttf",
        "fonts-mona": "mona.ttf",
        "fonts-oradano-mincho-gsrr": "OradanoGSRR.ttf",
        "fonts-rampart": "RampartOne-Regular.ttf",
        "fonts-reggae": "ReggaeOne-Regular.ttf",
        "fonts-rocknroll": "RocknRollOne-Regular.ttf",
        "fonts-stick": "Stick-Regular.ttf",
        "fonts-train": "TrainOne-Regular.ttf",
        "fonts-yozvox-yozfont-antique": "YOzRA_.ttf",
        "fonts-yozvox-yozfont-cute": "YOzBC_.ttf",
    },
}
"""IPA's fonts, M+'s and one calligrapher's are on one side; the five of Fontworks are on the other."""


def greek(packages: Path) -> Iterator[Picture]:
    """Yield the 24 small Greek letters, black on white."""
    return letters(GREEK, GREEK_FONTS, packages)


def kana(packages: Path) -> Iterator[Picture]:
    """Yield the 46 hiragana, black on white."""
    return letters(HIRAGANA, KANA_FONTS, packages)


def letters(alphabet: dict[str, str], fonts: Fonts, packages: Path) -> Iterator[Picture]:
    """Yield each letter of ``alphabet``, letter: class, in each of the fonts."""
    for split, files_of in fonts.items():
        for package, listed in files_of.items():
            names = listed.split("|")
            files = files_in(archive_of(package, packages), lambda path, names=names: Path(path).name in names)
            found = {Path(path).name: data for path, data in files}
            for name in names:
                font = ImageFont.truetype(io.BytesIO(found[name]), HEIGHT, layout_engine=ImageFont.Layout.BASIC)
                for letter, label in alphabet.items():
                    yield Picture(split, label, quote(name.rpartition(".")[0].replace(" ", "-")), drawn(letter, font))


def drawn(letter: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Return a letter, its own box in the middle of the picture."""
    left, top, right, bottom = font.getbbox(letter, anchor="ls")
    image = Image.new("L", (SIZE, SIZE), 255)
    place = (round((SIZE - left - right) / 2), round((SIZE - top - bottom) / 2))
    ImageDraw.Draw(image).text(place, letter, fill=0, font=font, anchor="ls")
    return image
