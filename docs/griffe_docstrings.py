"""Turn the reStructuredText of docstrings into Markdown: formulas into TeX, names into links.

Read by Griffe, which reads the package for the pages of docs/reference.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_DISPLAY = re.compile(r"^( *)\.\. math:: ?(.*(?:\n(?:\1 +\S.*| *(?=\n\1 +\S)))*)", re.MULTILINE)
_ROLE = re.compile(r":math:`([^`]+)`")
_REFERENCE = re.compile(r":[a-z]+:`(~?)([\w.]+)`|(?<![`\w])`()([A-Za-z_][\w.]*)`(?!`)")


class Markdown(griffe.Extension):
    """Rewrite every docstring once the package is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite the docstrings of a package."""
        _rewrite(pkg)


def _rewrite(item: griffe.Object) -> None:
    if item.docstring:
        item.docstring.value = _markdown(item.docstring.value, item)
    for member in item.members.values():
        if not member.is_alias:
            _rewrite(member)


def _markdown(text: str, scope: griffe.Object) -> str:
    text = _DISPLAY.sub(_display, text)
    text = _ROLE.sub(lambda found: f"${' '.join(found[1].split())}$", text)
    return _REFERENCE.sub(lambda found: _link(found[2] or found[4], scope, short=bool(found[1])), text)


def _display(found: re.Match[str]) -> str:
    indent, formula = found.groups()
    return f"{indent}$$ {' '.join(formula.split())} $$"


def _link(name: str, scope: griffe.Object, *, short: bool) -> str:
    """Return a link where the package knows the name, and code elsewhere; the link may lead to no page."""
    try:
        path = name if name.startswith("nearfield.") else scope.resolve(name)
    except griffe.NameResolutionError:
        return f"`{name}`"
    shown = name.rsplit(".", 1)[-1] if short else name
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
