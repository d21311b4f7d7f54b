"""What ppl-vae raises when a person has to change something.

Every message says what was expected, what was got, and what to do about it. The command line prints
it as it is and ends with exit code 2.
"""

import difflib
import operator
import os
import re
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, TypeVar

T = TypeVar("T")
LARGEST = 2**63 - 1  # of 64 bits: what PyTorch counts with
SHOWN, UNBROKEN = 80, 200  # letters of a value in a message; of what has no space in it
PYROS_TABLE = "Trace Shapes:"  # of all sites, which Pyro adds to what a program raises, and `reason` leaves out
NO_NUMBERS = ("bool", "complex", "datetime", "timedelta")  # dtypes that Python would make numbers of


class InputError(ValueError):
    """An argument, a file, a program or a data set cannot be used as it is.

    The message speaks of arguments, as a library does; `options` says the same in those of the command line, which
    prints it below.
    """

    def __init__(self, message: object = "", *, options: str = "") -> None:
        super().__init__(_in_one_line(str(message)))
        self.options = options


class ProgramError(InputError):
    """A program could not be run: the message names its own line; `__cause__` is what was raised there."""


class NonFiniteLossError(ArithmeticError):
    """Training met a loss that is NaN or infinite; the last good weights were put back."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the names nearest to `name`, as the end of an error message.

    >>> did_you_mean("mixtur", ["standard_normal", "mixture"])
    "did you mean 'mixture'? (there are: mixture, standard_normal)"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(str(name)[:UNBROKEN], names, n=3, cutoff=0.5)
    listing = f"(there are: {', '.join(names)})" if names else "(there are none)"
    return f"did you mean {' or '.join(map(repr, near))}? {listing}" if near else f"choose one of them {listing}"


def reason(problem: BaseException) -> str:
    r"""Return what an exception says in one line: the first of its message, or else its kind.

    >>> reason(ValueError("no number\n  in row 3"))
    'no number'
    """
    return next(iter(str(problem).splitlines()), "") or type(problem).__name__


def check_object(name: str, value: object, given: str = "...") -> None:
    """Raise an InputError if `value` is a class, which has to be called (with what is `given`) to make an object.

    >>> check_object("guide", dict, given="model")
    Traceback (most recent call last):
    ...
    ppl_vae.errors.InputError: Expected guide to be an object; got the class dict. Write guide=dict(model).
    """
    if isinstance(value, type):
        cls = value.__name__
        raise InputError(f"Expected {name} to be an object; got the class {cls}. Write {name}={cls}({given}).")


def whole_number(value: object) -> int | None:
    """Return a whole number of Python, NumPy or PyTorch as Python's, None for anything else.

    >>> import numpy as np
    >>> whole_number(np.int64(5)), whole_number(True), whole_number(2.0)
    (5, None, None)
    """
    return _converted(value, operator.index)


def real_number(value: object) -> float | None:
    """Return a real number of Python, NumPy or PyTorch as Python's float, None for anything else."""
    return _converted(value, float) if isinstance(value, Real) or hasattr(value, "dtype") else None


def whole_from(least: int, name: str, value: object) -> int:
    """Return `value` as Python's int if it is a whole number from `least` to 2^63 - 1, else raise an InputError."""
    number = whole_number(value)
    if number is None or number < least:
        raise InputError(f"Expected {name} to be a whole number of at least {least}; got {shown(value)}.")
    if number > LARGEST:
        raise InputError(f"Expected {name} to be a whole number below 2^63; got {shown(value)}.")
    return number


def positive_int(name: str, value: object) -> int:
    """Return `value` as Python's int if it is a whole number above zero, else raise an InputError that names it.

    >>> positive_int("epochs", 0)
    Traceback (most recent call last):
    ...
    ppl_vae.errors.InputError: Expected epochs to be a whole number of at least 1; got 0.
    """
    return whole_from(1, name, value)


def positive_number(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number above zero, else raise an InputError.

    >>> positive_number("sigma", 0.1)
    0.1
    """
    number = real_number(value)
    if number is None or not 0 < number < float("inf"):
        raise InputError(f"Expected {name} to be a finite number above zero; got {shown(value)}.")
    return number


def number_from_zero(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number of at least zero, else raise an InputError.

    >>> number_from_zero("beta", 0)
    0.0
    """
    number = real_number(value)
    if number is None or not 0 <= number < float("inf"):
        raise InputError(f"Expected {name} to be a finite number of at least 0; got {shown(value)}.")
    return number


def true_or_false(name: str, value: object) -> bool:
    """Return `value` if it is Python's or NumPy's truth value, else raise an InputError."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"Expected {name} to be True or False; got {shown(value)}.")
    return bool(value)


def is_one_of(value: object, known: Iterable[str]) -> bool:
    """Return whether `value` is one of some words; what is no word, and cannot be compared with one, is none.

    >>> is_one_of("ais", ["auto", "ais"]), is_one_of([], ["auto"])
    (True, False)
    """
    return isinstance(value, str) and value in known


def check_path(name: str, value: object) -> None:
    """Raise an InputError if `value` is not the path of a file or a folder that a machine can have."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"Expected {name} to be a path; got {shown(value)}. Give it as a string or a pathlib.Path.")
    path = os.fspath(value)
    try:
        os.lstat(path)
    except ValueError as problem:  # a zero byte, or letters that are none
        raise InputError(f"Expected {name} to be a path; got {shown(path)} ({problem}). Choose another name.") from None
    except OSError as problem:
        if isinstance(problem, FileNotFoundError | PermissionError | NotADirectoryError):
            return
        raise InputError(
            f"Expected {name} to be a path that can be used; got {shown(path)} ({problem.strerror}). Choose another."
        ) from None


def shown(value: object) -> str:
    """Return a value as it stands in a message: in one line, and cut where it is long.

    >>> shown("a" * 1000)[-8:], shown(2.5)
    ("aaa...a'", '2.5')
    """
    try:
        text = repr(value)
    except Exception:  # of a person's own object, or of a number of ten thousand digits
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 5]}...{text[-2:]}"


def _converted(value: Any, convert: Callable[[Any], T]) -> T | None:
    """Return one number converted, None if it is no single number, or a truth value."""
    dtype = str(getattr(value, "dtype", ""))
    if isinstance(value, bool) or getattr(value, "ndim", None) or any(kind in dtype for kind in NO_NUMBERS):
        return None
    try:
        return convert(value)
    except Exception:  # whatever a class of a person's own, or a tensor without values, raises
        return None


def _in_one_line(message: str) -> str:
    """Return a message in one line, in which what has no space for hundreds of letters is cut."""
    if PYROS_TABLE in message:
        return message
    return re.sub(rf"(\S{{{UNBROKEN // 2}}})\S{{{UNBROKEN},}}(\S{{10}})", r"\1...\2", " ".join(message.splitlines()))


def snake_case(name: str) -> str:
    """Return a class name as it is written on the command line.

    >>> snake_case("StandardNormal"), snake_case("GatedMLP"), snake_case("TraceMeanField_ELBO")
    ('standard_normal', 'gated_mlp', 'trace_mean_field_elbo')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
