"""What ppl-vae raises when a person has to change something.

Every message says what was expected, what was got, and what to do about it. The command line prints
it as it is and ends with exit code 2.
"""

import difflib
import re
from collections.abc import Iterable


class InputError(ValueError):
    """An argument, a file, a program or a data set cannot be used as it is.

    The message speaks of arguments, as a library does; `options` says the same in those of the command line, which
    prints it below.
    """

    def __init__(self, message: object = "", *, options: str = "") -> None:
        super().__init__(message)
        self.options = options


class ProgramError(InputError):
    """A program could not be run: the message names its own line; `__cause__` is what was raised there."""


class NonFiniteLossError(ArithmeticError):
    """Training met a loss that is NaN or infinite; the last good weights were put back."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the names nearest to `name`, as the end of an error message.

    >>> did_you_mean("mixtur", ["standard_normal", "mixture"])
    "did you mean 'mixture'? (there are: mixture, standard_normal)"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
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


def positive_int(name: str, value: object) -> int:
    """Return `value` if it is a whole number above zero, else raise an InputError that names it.

    >>> positive_int("epochs", 0)
    Traceback (most recent call last):
    ...
    ppl_vae.errors.InputError: Expected epochs to be a whole number of at least 1; got 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"Expected {name} to be a whole number of at least 1; got {value!r}.")
    return value


def positive_number(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number above zero, else raise an InputError.

    >>> positive_number("sigma", 0.1)
    0.1
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"Expected {name} to be a finite number above zero; got {value!r}.")
    return float(value)


def number_from_zero(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number of at least zero, else raise an InputError.

    >>> number_from_zero("beta", 0)
    0.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InputError(f"Expected {name} to be a finite number of at least 0; got {value!r}.")
    return float(value)


def snake_case(name: str) -> str:
    """Return a class name as it is written on the command line.

    >>> snake_case("StandardNormal"), snake_case("GatedMLP"), snake_case("TraceMeanField_ELBO")
    ('standard_normal', 'gated_mlp', 'trace_mean_field_elbo')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
