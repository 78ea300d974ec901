"""The page of measurements: a benchmark replaces its own section and nothing else."""

import re
from pathlib import Path

import pytest
from benchmarks.table import write_section

DOCS = Path(__file__).parents[1] / "docs"
PAGE = "before\n<!-- one -->\nold\n<!-- /one -->\nbetween\n<!-- two -->\nkept\n<!-- /two -->\nafter\n"


def test_a_section_is_replaced_and_the_rest_is_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for _ in range(2):  # a second time changes nothing
        write_section(page, "one", ["law", "risk"], [["CIR", "1 | 2"]], "Means.\n")
    table = "| law | risk |\n|---|---:|\n| CIR | 1 \\| 2 |\n\nMeans."
    assert page.read_text() == PAGE.replace("old", table)


@pytest.mark.parametrize("text", ["", "<!-- one -->", "<!-- /one --><!-- one -->", PAGE + PAGE])
def test_a_page_without_one_section_is_left_as_it_is(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="page must have one section <!-- one -->"):
        write_section(page, "one", ["law"], [["CIR"]])
    assert page.read_text() == text


def test_sections_are_of_benchmarks_that_are_there():
    text = (DOCS / "measurements.md").read_text(encoding="utf-8")
    names = re.findall(r"<!-- (\w+) -->", text) + re.findall(r"python -m benchmarks\.(\w+)", text)
    assert "gaussian_chain" in names
    for name in names:
        assert (DOCS.parent / "benchmarks" / f"{name}.py").is_file()
