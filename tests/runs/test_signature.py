"""Options are read from files as Python itself reads them, and the command line has every one of them."""

import inspect
import pkgutil

import pytest

from ppl_vae import cli
from ppl_vae.runs.signature import GIVEN, SET_BY_NAME, options_of, settable

FUNCTIONS = [
    *SET_BY_NAME.values(),
    "ppl_vae.runs.train:train",
    "ppl_vae.runs.evaluate:evaluate",
    "ppl_vae.runs.evaluate:explain",
    "ppl_vae.runs.evaluate:measure",
    "ppl_vae.runs.sample:sample_run",
    "ppl_vae.runs.impute:impute_run",
    "ppl_vae.runs.listing:list_parts",
    "ppl_vae.evidence.estimators:estimate_evidence",
    "ppl_vae.generation.generate:sample",
    "ppl_vae.generation.impute:impute",
]

OWN = '''
def function(
    x, *, size: int = 7, name: str | None = None, exact: bool = True, on: Callable = print, level: A = 1
):
    """Do it.

    Args:
        x: a number.
        size: how large. It matters.
        name: what to call it,
            see `x`; None takes a usual one.
        exact: exactly.
        level: or none.
    """
'''


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_read_is_what_python_says(name):
    parameters = inspect.signature(pkgutil.resolve_name(name)).parameters.values()
    options = [p for p in parameters if p.kind == p.KEYWORD_ONLY]
    read = options_of(name)
    assert list(read) == [p.name for p in options]
    for option in options:
        plain = option.default is None or isinstance(option.default, bool | int | float | str)
        assert read[option.name].default == (option.default if plain else None)
        assert read[option.name].text, f"{name} says nothing of {option.name}"


def test_every_option_is_on_the_command_line():
    shown = {name: {p.name for p in command.params} for name, command in cli.app.commands.items()}
    for command, part in (("train", "fit"), ("train", "data")):
        assert set(settable(part)) <= shown[command]
        assert set(options_of(SET_BY_NAME[part])) - {*GIVEN} - shown[command] <= {"strings"}
    for command, function in (
        ("evaluate", "ppl_vae.evidence.estimators:estimate_evidence"),
        ("sample", "ppl_vae.generation.generate:sample"),
        ("impute", "ppl_vae.generation.impute:impute"),
    ):
        assert set(options_of(function)) - {"progress", "num_draws"} <= shown[command] | {"num_draws"}


def test_an_option_that_is_added_appears_by_itself(tmp_path, monkeypatch, capsys):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr("ppl_vae.runs.signature.PACKAGE", tmp_path)
    given = {}
    command = cli.from_signature("ppl_vae.own:function", size="-n")(lambda **options: given.update(options))
    command = cli.click.command(cls=cli.Command)(command)
    with pytest.raises(SystemExit):
        command(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "-n, --size INTEGER How large. [default: 7]",
        "--name TEXT What to call it. [default: a usual one]",
        "--exact / --no-exact Exactly. [default: exact]",
    ):
        assert text in out
    assert "--on" not in out
    command(["-n", "3", "--no-exact"], standalone_mode=False)
    assert given == {"size": 3, "exact": False}  # what is not given, the function decides
    given.clear()
    command(["--level", "none"], standalone_mode=False)
    assert given == {"level": None}
