"""The pages in docs/: every block of Python runs, and prints, warns of, or is refused with, what stands below it."""

import doctest
import io
import linecache
import re
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from ppl_vae.errors import InputError

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
BLOCKS = re.compile(r"^```python\n(.*?)^```\n(?:\n^```\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)


def said_by(code, names):
    """Return what a block prints, the warnings of it, and what it is refused with."""
    linecache.cache["mine.py"] = (len(code), None, code.splitlines(keepends=True), "mine.py")
    printed, refused = io.StringIO(), ""
    with redirect_stdout(printed), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            exec(compile(code, "mine.py", "exec"), names)
        except InputError as problem:
            refused = str(problem)
    ours = [str(w.message) for w in warned if w.category is UserWarning]
    return "\n".join([printed.getvalue(), *ours, refused]).strip() + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_says_what_stands_below_it(page):
    names = {"__name__": "mine"}
    for code, said in BLOCKS.findall(page.read_text()):
        found = said_by(code, names)
        same = doctest.OutputChecker().check_output(said, found, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert same, f"{code}\nsays\n{found}"
