"""Pictures on the page: figures for two widths, and sheets of example images.

In: what draws them. Out: HTML that carries them inside, and files under `figures/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeps.report import figures, samples
from sweeps.report.files import RunFiles
from sweeps.report.markup import Child, Html, data_uri, tag
from sweeps.report.samples import Cell, SheetRow


def drawing(run: RunFiles, name: str, draw: figures.Draw, words: str, caption: Child, *, width_px: int = 1052) -> Html:
    """Return a figure for wide and narrow pages, having written the wide one to `figures/`.

    `words` says what it shows to who cannot see it.
    """
    wide, png = figures.rendered(draw, ("svg", "png"))
    (narrow,) = figures.rendered(draw, ("svg",), narrow=True)
    figures.save(run.paths.figures / f"{name}.svg", wide)
    figures.save(run.paths.figures / f"{name}.png", png)
    picture = tag(
        "picture",
        tag("source", media="screen and (max-width: 640px)", srcset=data_uri(narrow, "image/svg+xml")),
        tag("img", src=data_uri(wide, "image/svg+xml"), alt=words, width=width_px),
    )
    return tag("figure", picture, tag("figcaption", caption))


def pictures(sheet: list[SheetRow]) -> dict[Cell, bytes | None]:
    """Return each cell's JPEG; None for a cell that has none or whose file cannot be read."""
    found: dict[Cell, bytes | None] = {}
    for row in sheet:
        for cell in row.cells:
            try:
                found[cell] = samples.thumbnail(cell.path) if cell.path else None
            except OSError:
                found[cell] = None
    return found


def sheet_table(
    rows: list[SheetRow], jpeg: Mapping[Cell, bytes | None], caption: str, heads: Sequence[str] = ()
) -> Html:
    """Return a sheet of example images as a table, planes across unless the columns have other heads."""
    names = heads or [p.name for p in samples.COLUMNS]
    head = tag("tr", tag("td"), [tag("th", name, scope="col") for name in names])
    body = []
    for row in rows:
        cells = []
        for cell in row.cells:
            content = jpeg[cell]
            if content is None:
                shown: Html = tag("span", cell.words if cell.path is None else "cannot be read", class_="none")
            else:
                side = samples.THUMBNAIL_PX
                shown = tag(
                    "img",
                    src=data_uri(content, "image/jpeg"),
                    alt=cell.words,
                    title=cell.words,
                    width=side,
                    height=side,
                )
            cells.append(tag("td", shown))
        label = tag("th", tag("span", row.title, class_="name"), " ", tag("span", row.detail, class_="ci"), scope="row")
        body.append(tag("tr", label, cells))
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body), class_="sheet")
