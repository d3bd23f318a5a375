"""Makes the pictures of docs/methods/ by the commands on its pages.

The first command of a page is run as it stands, with four particles unless it says otherwise, and
its result is the picture of the page and of the gallery:

    python docs/method_pictures.py           # all, or those of the methods that are named
    python docs/method_pictures.py --insert  # only put pictures that exist into the pages
"""

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from PIL import Image

from limbeck.cli.main import main as limbeck
from limbeck.studies.edits import render_world_scene

PAGES = Path(__file__).parent / "methods"
PICTURES = Path(__file__).parent / "images" / "methods"
GALLERY = Path(__file__).parent / "gallery.md"
PARTICLES = 4
SCALE = 2  #: screen pixels per pixel
EDITED = "a plain red mug on grass"  #: what mug.png and the other images of the pages show
SCENE = 5  #: the seed of one that shows its handle
BEGIN, END = "<!-- picture -->\n", "<!-- end of picture -->\n"


def command_of(page: Path) -> list[str]:
    """The words of the first command on a page; empty if there is none."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(r"^(?:    )?(limbeck (?:run|edit) .+)$", text, re.M)
    return shlex.split(found[1])[1:] if found else []


def picture(page: Path) -> Path:
    """The picture of a page, which may not exist."""
    return PICTURES / f"{page.stem}.png"


def title(page: Path) -> str:
    """The name of the method of a page."""
    first = page.read_text(encoding="utf-8").splitlines()[0]
    return re.split(r"[:,(]", first.removeprefix("# "))[0].strip()


def make(name: str) -> None:
    """Run the command of the page of a method, and save its picture."""
    words = command_of(PAGES / f"{name}.md")
    is_edit = words[0] == "edit"
    if not is_edit and "--particles" not in words:
        words += ["--particles", str(PARTICLES)]
    with tempfile.TemporaryDirectory() as folder:
        before = os.getcwd()
        os.chdir(folder)
        try:
            for file in ("mug.png", "a.png", "b.png"):
                render_world_scene(EDITED, seed=SCENE).save(file)
            limbeck([*words, "--out", "out"])
            paths = [Path("out/final.png")]
            if is_edit:
                paths = [Path(f"out/edit/00-00-{kind}.png") for kind in ("before", "after")]
            images = [Image.open(path).convert("RGB") for path in paths]
        finally:
            os.chdir(before)
    save_row(images, picture(PAGES / f"{name}.md"))


def save_row(images: list[Image.Image], path: Path) -> None:
    """Save images beside each other, a few pixels apart."""
    gap, height = 2, max(image.height for image in images)
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    row, left = Image.new("RGB", (width, height), "white"), 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + gap
    path.parent.mkdir(parents=True, exist_ok=True)
    row = row.resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
    row.save(path, optimize=True)


def inserted(page: Path) -> str:
    """The text of a page with its picture behind the block of its first command."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(rf"{BEGIN}.*?{END}\n", "", text, flags=re.S)
    words = command_of(page)
    command = re.search(r"^(?:    )?limbeck (?:run|edit) .+\n(?:    .*\n)*", text, re.M)
    if command is None or not picture(page).is_file():
        return text
    several = len(re.findall(r"^(?:    )?limbeck ", command[0], re.M)) > 1
    this = "the first of these commands" if several else "this command"
    if words[0] == "edit":
        shown = f"The image before and after {title(page)}"
        caption = f"Before and after, by {this}, on the embedded model."
    else:
        shown = f"Particles of {title(page)}"
        count = "" if "--particles" in words else f", with {PARTICLES} particles"
        model = "" if "--model" in words else " on the embedded model"
        caption = f"The result of {this}{model}{count}."
    block = f"![{shown}](../images/methods/{page.stem}.png)\n\n*{caption}*\n"
    return f"{text[: command.end()]}\n{BEGIN}\n{block}\n{END}{text[command.end() :]}"


def gallery() -> str:
    """The gallery with all pictures: particles by methods from noise, then edits."""
    pages = [page for page in sorted(PAGES.glob("*.md")) if picture(page).is_file()]
    edits = [page for page in pages if command_of(page)[0] == "edit"]
    others = [page for page in pages if page not in edits]
    before, rest = GALLERY.read_text(encoding="utf-8").split(BEGIN)
    text = f"{table(others, 2)}\nThe same image edited by each method:\n\n{table(edits, 4)}"
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def table(pages: list[Path], columns: int) -> str:
    """Pictures with their names, so many beside each other."""
    cells = [
        f"![{page.stem}](images/methods/{page.stem}.png)<br>[{title(page)}](methods/{page.name})"
        for page in pages
    ]
    cells += [""] * (-len(cells) % columns)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    lines = ["| " + " | ".join(row) + " |" for row in [[""] * columns, ["---"] * columns, *rows]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if word != "--insert"]
    for page in sorted(PAGES.glob("*.md")):
        if command_of(page) and page.stem in (names or [page.stem]):
            if "--insert" not in sys.argv:
                make(page.stem)
            page.write_text(inserted(page), encoding="utf-8")
    GALLERY.write_text(gallery(), encoding="utf-8")
