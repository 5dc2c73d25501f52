"""Measurements in processes of their own."""

from mtl.benchmark.processes import in_turns, measure

SCRIPT = """
import os, sys
from mtl.benchmark.processes import report
print("noise")
report(ms=float(sys.argv[1]), value=os.environ["VALUE"])
print("more noise")
"""


def test_what_a_script_reports_comes_back(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = measure([str(script), "1.5"], {"VALUE": "x"})
    peak = result.pop("peak_mib")
    assert "keras-mtl" in result.pop("versions")
    assert result == {"ms": 1.5, "value": "x"}
    assert 1 < peak < 1e6


def test_a_script_that_fails_tells_why(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise MemoryError('too large')")
    assert measure([str(script)], {}) == {"error": "MemoryError: too large"}


def test_cases_take_turns():
    assert list(in_turns("ab", 2)) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
