"""What went wrong in a person's program, in words: the exception, their own line, and what mends it.

Programs are run inside Pyro and PyTorch, which raise what they like in lines that nobody here wrote. What a person can
mend is the innermost line of their own: it is named, and the exception stays behind it as the cause (`__cause__`).
"""

import inspect
import linecache
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from ppl_vae.errors import PYROS_TABLE, InputError, NonFiniteLossError, ProgramError, reason

OURS = "ppl_vae"
OUR_ENTRIES = (f"{OURS}.data.", f"{OURS}.cli")  # above them no line is of a program
OUR_PROGRAMS = ("ppl_vae.models.", "ppl_vae.guides.")
INSTALLED = re.compile(r"[/\\](site-packages|dist-packages)[/\\]|^<(frozen |eval_with_key|__array_function__)")
STANDARD = tuple(
    {str(path) for p in map(Path, map(sysconfig.get_path, ("stdlib", "platstdlib"))) for path in (p, p.resolve())}
)
LAYOUT = "Let the network give as many numbers as the data have, or reshape the data."
ZERO = (
    "An .exp() of a large negative number is 0: scale what goes into the network (x / 255), or add a smallest one, "
    "as 0.001 + softplus of what the network gives."
)
POSITIVE = "Make it positive, by .exp() or torch.nn.functional.softplus of what the network gives."
PROBABILITIES = (
    "If they are logits, give them as logits=, not as probs=; else make probabilities of them (sigmoid, softmax)."
)
NAN = (
    "Look at what goes into that line: the logarithm, root or quotient of a number that has none, missing values that "
    "are not filled, or weights that training has made so."
)


def _of_a_parameter(name: str, family: str, where: str, values: str) -> tuple[str, str]:
    """Return what is wrong with a parameter of a distribution, and the fix."""
    where = re.sub(r"IndependentConstraint\((.*), \d+\)", r"\1", where)
    bounds = [float(number) for number in re.findall(r"-?\d+\.?\d*", where)]
    if "nan" in values or "Real" in where:
        return f"{name} of {family} that is NaN", NAN
    if name == "probs":
        return f"{name} of {family} outside [0, 1]", PROBABILITIES
    if where.startswith("GreaterThan") and bounds == [0.0] and not re.search(r"(?<!e)-\d|-inf", values):
        return f"{name} of {family} that is 0", ZERO
    if where.startswith("GreaterThan") and bounds == [0.0]:
        return f"{name} of {family} that is not positive", POSITIVE
    return f"{name} of {family} outside {where}", f"Make what goes into {name} fit."


def _of_a_plate(plate: str, site: str, dim: str, size: str, got: str) -> tuple[str, str]:
    """Return what is wrong with the shape of a site inside a plate, and the fix."""
    return (
        f"site {site!r} with {got} distributions along dimension {dim}, where plate {plate!r} has {size}",
        "If that dimension belongs to one datum, end the distribution with .to_event(1) (or as many as there are such "
        "dimensions); else let it be as long as the plate.",
    )


def _of_a_layer(given: str, takes: str) -> tuple[str, str]:
    """Return what is wrong with a product of matrices, and the fix."""
    return f"a layer that takes [..., {takes}], given [..., {given}]", f"Let the layer take {given} numbers."


def _of_channels(shape: str, takes: str, given: str) -> tuple[str, str]:
    return f"a convolution of {takes} channels, given [{shape}]", f"Let it take {given} channels."


def _of_images(dims: str, kind: str, shape: str) -> tuple[str, str]:
    fix = "Give it images, for instance x.unflatten(-1, (channels, height, width))."
    return f"a {kind}, which takes {dims} dimensions, given [{shape}]", fix


def _of_a_norm(takes: str, shape: str) -> tuple[str, str]:
    return f"a layer that takes [..., {takes}], given [{shape}]", "Let the layer take as many numbers as there are."


def _of_an_index(index: str | None, size: str | None) -> tuple[str, str]:
    found = "an index or a label that is too large" if index is None else f"index {index} of {size}"
    return found, "Indices and classes are 0, 1, ..: of labels that start at 1 subtract 1 (y - 1)."


def _of_two_sites(name: str) -> tuple[str, str]:
    return f"two sites or plates named {name!r}", (
        "Give each a name of its own; to enter a plate again, keep it, plate = pyro.plate(...), and use `with plate:`."
    )


def _of_a_value(value: str, fn: str) -> tuple[str, str]:
    return f"a value of shape ({value}) for a distribution of shape ({fn})", LAYOUT


def _of_dtypes(one: str, other: str) -> tuple[str, str]:
    return f"{one} and {other} numbers in one product", (
        "Make them alike: .float() or .double() of the network, or of what goes into it (torch.zeros(8) is Float)."
    )


def _of_nothing() -> tuple[str, str]:
    return "a distribution with neither probs nor logits, or with both", (
        "If they come from a function, let it return them (it may have no return)."
    )


def _of_a_scalar(count: str) -> tuple[str, str]:
    return f"one number asked of a tensor of {count}", "Leave .item() and float() out: compute with the tensor."


def _of_an_array() -> tuple[str, str]:
    return "a NumPy array asked of a tensor with a gradient", (
        "Write what is computed in PyTorch (torch.exp for np.exp): through NumPy there is no gradient."
    )


def _of_a_change() -> tuple[str, str]:
    return "a tensor that was changed in place after it was used", (
        "Compute with new tensors: h = h + 1 for h += 1, .clamp() for .clamp_(), nn.ReLU() for nn.ReLU(inplace=True)."
    )


def _of_no_program(kind: str) -> tuple[str, str]:
    return f"{kind}, which cannot be called", (
        "If it is a distribution, take that of pyro.distributions, and not that of torch.distributions."
    )


def _of_events(wanted: str, there: str) -> tuple[str, str]:
    return f".to_event({wanted}) of a distribution of {there} dimension{'s' * (there != '1')}", (
        "Count those of one datum: 1 of a vector, 3 of an image [channels, height, width]."
    )


# What PyTorch and Pyro say most often to a beginner, and what is said instead: what was got, and the fix.
KNOWN: tuple[tuple[str, Callable[..., tuple[str, str]]], ...] = (
    (r"Shape mismatch inside plate\('(.*?)'\) at site (\S+) dim (-\d+), (\d+) vs (\d+)", _of_a_plate),
    (
        r"Expected parameter (\w+) .*?of distribution (\w+).* to satisfy the constraint (.*?), but found(.*)",
        _of_a_parameter,
    ),
    (r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", _of_a_layer),
    (r"expected input\[(.*?)\] to have (\d+) channels, but got (\d+) channels", _of_channels),
    (r"or (\d)D \(batched\) input to (\w+), but got input of size: \[(.*?)\]", _of_images),
    (r"expected input with shape \[\*, (.*?)\], but got input of size ?\[(.*?)\]", _of_a_norm),
    (
        r"index out of range in self|Class values must be smaller|index (\d+) is out of bounds .* with size (\d+)",
        _of_an_index,
    ),
    (r"Multiple (?:\w+ )?sites named '(.*?)'", _of_two_sites),
    (
        r"not broadcastable with batch_shape\+event_shape: torch.Size\(\[(.*?)\]\) vs torch.Size\(\[(.*?)\]\)",
        _of_a_value,
    ),
    (r"mat1 and mat2 must have the same dtype, but got (\w+) and (\w+)", _of_dtypes),
    (r"[Ee]ither `probs` or `logits` must be specified, but not both", _of_nothing),
    (r"a Tensor with (\d+) elements cannot be converted to Scalar", _of_a_scalar),
    (r"Can't call numpy\(\) on Tensor that requires grad", _of_an_array),
    (r"'([A-Z]\w+)' object is not callable", _of_no_program),
    (r"Expected reinterpreted_batch_ndims <= len\(base_distribution.batch_shape\), actual (\d+) vs (\d+)", _of_events),
    (r"used in an in-place operation|modified by an inplace operation", _of_a_change),
)


@contextmanager
def differentiated(programs: str) -> Iterator[None]:
    """Say of gradients that cannot be computed, for which PyTorch names no line, whose they are and what mends it."""
    try:
        yield
    except RuntimeError as problem:
        if not _is_known(problem) or _place_in(problem, _is_a_persons):
            raise
        raise ProgramError(f"Expected {programs} to have gradients; {got(problem)}") from problem


@contextmanager
def told() -> Iterator[None]:
    """Let what a person's program raises within be a `ProgramError` that names their line; the rest passes as it is."""
    try:
        yield
    except (ProgramError, NonFiniteLossError, Warning):
        raise
    except InputError as problem:
        place = _place_in(problem, _is_a_persons)
        if not place:
            if PYROS_TABLE not in str(problem):
                raise
            raise InputError(reason(problem), options=problem.options) from None
        raise ProgramError(f"{reason(problem)} ({place})", options=problem.options) from problem
    except Exception as problem:
        ours = type(problem).__module__.partition(".")[0] == OURS  # said by one of our rooms to another
        if ours or not _origin(problem)[1]:
            raise
        raise ProgramError(f"Expected a program that runs to its end; {got(problem)}") from problem


@contextmanager
def expecting(what: str) -> Iterator[None]:
    """Let whatever is raised within, by what a person has passed, be a `ProgramError` of what was expected of it."""
    try:
        yield
    except (InputError, Warning):
        raise
    except Exception as problem:
        raise ProgramError(f"Expected {what}; {got(problem)}") from problem


def reading(what: str) -> AbstractContextManager[None]:
    """Let whatever a person's data raise within be a `ProgramError` that says what cannot be read, and where."""
    return expecting(f"{what} that can be read to its end")


def warn(message: str) -> None:
    """Warn, at the innermost line of the person's own."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and not _is_a_persons(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def got(problem: BaseException) -> str:
    """Return the second half of a message: what a program raised, where, and the fix, if it is known."""
    origin, place = _origin(problem)
    what, fix = _known(origin)
    return f"got {what}{f' ({place})' if place else ''}. {fix}".rstrip()


def _known(problem: BaseException) -> tuple[str, str]:
    """Return what an exception says, in the words of this house where they are known, and the fix."""
    for pattern, in_words in KNOWN:
        if found := re.search(pattern, str(problem), re.DOTALL):
            return in_words(*found.groups())
    kind, says = type(problem).__name__, reason(problem).rstrip(".: ")
    return (kind if says in ("", kind) else f"{kind}: {says}"), ""


def _is_known(problem: BaseException) -> bool:
    return any(re.search(pattern, str(problem), re.DOTALL) for pattern, _ in KNOWN)


def _origin(problem: BaseException) -> tuple[BaseException, str]:
    """Return the exception that a program raised, and its line: a person's, else one of a model or guide of ours."""
    chain: list[BaseException] = []
    link: BaseException | None = problem
    while link is not None and link not in chain:  # Pyro raises anew what it catches, if it can
        chain.append(link)
        link = link.__context__ if link.__cause__ is None else link.__cause__
    for of_a_program in (_is_a_persons, _is_our_program):
        for each in chain:
            if place := _place_in(each, of_a_program):
                return each, place
    return problem, ""


def _place_in(problem: BaseException, of_a_program: Callable[[FrameType], bool]) -> str:
    """Return the innermost line of a program in the traceback of an exception, in words, or ""."""
    frames = [place for place in walk_tb(problem.__traceback__) if of_a_program(place[0])]
    return _in_words(*frames[-1]) if frames else ""


@contextmanager
def at_their_line() -> Iterator[None]:
    """Let an `InputError` name the person's own line that led there."""
    try:
        yield
    except InputError as problem:
        if not (place := line_now()):
            raise
        raise type(problem)(f"{problem} ({place})", options=problem.options) from problem


def line_now() -> str:
    """Return the innermost line of a person's own program that calls the caller, in words, or ""."""
    frame = inspect.currentframe()
    for _ in range(2):  # this function, and the one that asks
        frame = frame and frame.f_back
    while frame is not None and not str(frame.f_globals.get("__name__", "")).startswith(OUR_ENTRIES):
        if _is_a_persons(frame):
            return _in_words(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


def _in_words(frame: FrameType, line: int) -> str:
    file, name = frame.f_code.co_filename, frame.f_code.co_qualname.replace("<locals>.", "")
    text = linecache.getline(file, line, frame.f_globals).strip()
    here = Path(file)
    shown = here.relative_to(Path.cwd()) if here.is_absolute() and here.is_relative_to(Path.cwd()) else here
    inside = "" if name.startswith("<") else f", in {name}"
    return f"{shown}, line {line}{inside}{f': {text}' if text else ''}"


def _is_a_persons(frame: FrameType) -> bool:
    """Return whether a line is neither ours nor that of an installed package or of Python's."""
    file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
    if module == OURS or module.startswith(f"{OURS}.") or INSTALLED.search(file):
        return False
    return not file.startswith(STANDARD)


def _is_our_program(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(OUR_PROGRAMS)
