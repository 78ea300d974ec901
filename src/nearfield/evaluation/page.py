"""The page of a report: its summary in HTML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["render"]


def render(summary: dict[str, Any], pictures: dict[str, str]) -> str:
    """Return the page; pictures are by place in the summary and name."""
    import jinja2
    from markupsafe import Markup

    def number(place: str, digits: int = 4, key: str | None = None) -> Markup:
        value: Any = summary
        for step in [*place.split("/"), *([] if key is None else [key])]:
            value = value[int(step)] if isinstance(value, list) else value[step]
        if value is None:
            return Markup("not given")
        text = f"{value:.{digits}g}" if isinstance(value, float) else str(value)
        return Markup('<data value="{}" data-path="{}">{}</data>').format(
            json.dumps(value), place if key is None else f"{place}/{key}", text
        )

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nearfield", "evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    trained = any(row["training"] is not None for section in summary["channels"] for row in section["moments"])
    return template.render(**summary, pictures=pictures, number=number, trained=trained)
