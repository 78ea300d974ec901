"""The suite checks every function of the package against its annotations: wrong shapes, planted here, are found."""

from __future__ import annotations

import importlib

import jaxtyping
import numpy as np
import pytest

from nearfield.graph.coordinate import positions
from nearfield.score import conditional, field
from nearfield.theory.budget import ErrorBudget

PLANTED = """
from __future__ import annotations

import numpy as np
from jaxtyping import Float

def totals(x: Float[np.ndarray, "sample vertex"]) -> Float[np.ndarray, " {axis}"]:
    return x.sum(axis=1)
"""


@pytest.mark.parametrize(("axis", "holds"), [("sample", True), ("vertex", False)])
def test_an_annotation_is_checked(tmp_path, monkeypatch, axis, holds):
    (tmp_path / f"planted_{axis}.py").write_text(PLANTED.format(axis=axis))
    monkeypatch.syspath_prepend(tmp_path)
    with jaxtyping.install_import_hook(f"planted_{axis}", "conftest.checked"):
        totals = importlib.import_module(f"planted_{axis}").totals
    if holds:
        assert totals(np.ones((2, 3))).tolist() == [3.0, 3.0]
    else:
        with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
            totals(np.ones((2, 3)))


def test_the_package_is_checked(shapes_are_checked):
    assert positions(np.zeros((2, 1)), "euclidean").shape == (2, 1)
    with pytest.raises(jaxtyping.TypeCheckError, match="vertex axis"):
        positions(np.zeros(2), "euclidean")


def test_a_call_with_wrong_shapes_on_purpose_reaches_the_function(unchecked):
    assert positions(np.zeros(2), "euclidean").shape == (2,)


@pytest.mark.slow
def test_a_slow_test_goes_unchecked():
    assert positions(np.zeros(2), "euclidean").shape == (2,)


def test_the_fields_of_a_record_are_checked(shapes_are_checked):
    with pytest.raises(jaxtyping.TypeCheckError, match="localization"):
        ErrorBudget(localization=np.ones(2), estimation=np.ones(3))


def test_a_name_imported_in_a_circle_is_the_real_one(shapes_are_checked):
    assert field.ConditionalField is conditional.ConditionalField
