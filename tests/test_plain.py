"""Values as JSON holds them: what is written is read back the same."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pytest

from nearfield._plain import plain

VALUES = {
    "numpy": np.array([[1, 2]]),
    "single": np.float32(0.5),
    "flag": np.bool_(True),
    "when": np.array(["2024-01-01"], dtype="M8[D]"),
    "date": datetime.date(2024, 1, 2),
    "none": None,
    "tuple": (1, ("a", 2.5)),
    3: np.int16(-4),
}


def test_plain_values_survive_json():
    found = plain(VALUES)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == {
        "numpy": [[1, 2]],
        "single": 0.5,
        "flag": True,
        "when": ["2024-01-01"],
        "date": "2024-01-02",
        "none": None,
        "tuple": [1, ["a", 2.5]],
        "3": -4,
    }


def test_only_strict_json_loses_what_is_not_finite():
    assert plain([np.float64(np.inf), np.nan], finite=True) == ["infinite", None]
    assert plain([np.inf])[0] == np.inf
    with pytest.raises(TypeError, match="set has no plain form"):
        plain({"a": [set()]})
