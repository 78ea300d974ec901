"""The pages on the theory: equations and statements that docstrings cite are there, names that the pages cite exist."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "theory.md"
LABEL = r"\(((?:[2-4]|[BN])\.\d+)\)"
RANGE = re.compile(rf"{LABEL}-{LABEL}")
CITED = re.compile(rf"(?<![\w\]]){LABEL}")  # not the arguments of a call
STATEMENT = re.compile(r"\b(Theorem|Proposition|Lemma|Definition|Remark) ([A-Z2-4]\.\d+)")


def docstrings() -> Iterator[tuple[str, str]]:
    """Every string that stands alone in a module of the package, and where."""
    for path in sorted((ROOT / "src" / "nearfield").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield f"{path.name}:{node.lineno}", node.value.value


def cited(text: str) -> set[str]:
    """Labels in a text, those within a range such as (3.5)-(3.7) too."""
    found = set(CITED.findall(text))
    for first, last in RANGE.findall(text):
        part, low, high = first.split(".")[0], *(int(label.split(".")[1]) for label in (first, last))
        found |= {f"{part}.{k}" for k in range(low, high + 1)}
    return found


def labels() -> list[str]:
    return re.findall(r"\\tag\{([^}]+)\}", PAGE.read_text(encoding="utf-8"))


def test_citations_are_found_as_written():
    assert cited("the loss (3.5)-(3.7), by (N.2) and f(2.1), log(2.0); (0.5) and (12.1) are numbers") == {
        "3.5",
        "3.6",
        "3.7",
        "N.2",
    }


def test_every_equation_cited_is_on_the_page():
    there = set(labels())
    missing = [(where, label) for where, text in docstrings() for label in sorted(cited(text) - there)]
    assert missing == []
    used = set().union(*(cited(text) for _, text in docstrings()))
    assert {"2.15", "3.10", "3.13", "4.5", "N.7"} <= used  # the search finds what is known to be cited


def test_every_statement_cited_is_on_the_page():
    there = set(
        re.findall(r"\*\*(Theorem|Proposition|Lemma|Definition|Remark) ([A-Z2-4]\.\d+)\.\*\*", PAGE.read_text())
    )
    used = {found for _, text in docstrings() for found in STATEMENT.findall(text)}
    assert ("Lemma", "B.1") in used
    assert used <= there


def test_labels_are_unique_and_the_page_cites_its_own():
    assert len(labels()) == len(set(labels()))
    for page in (PAGE, PAGE.with_name("notation.md")):
        assert cited(page.read_text(encoding="utf-8")) <= set(labels())


@pytest.mark.parametrize("page", ["theory.md", "notation.md"])
def test_names_on_the_pages_exist(page):
    text = (PAGE.with_name(page)).read_text(encoding="utf-8")
    for name in set(re.findall(r"`(nearfield(?:\.\w+)+)`", text)):
        pkgutil.resolve_name(name)  # raises if there is none
    for target in re.findall(r"\]\(([\w.-]+\.md)\)", text):
        assert (PAGE.parent / target).exists(), target
