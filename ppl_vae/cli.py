"""The command line: thin over the functions of the same names. Nothing heavy is imported before it is needed."""

import ast
import errno
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import ppl_vae
from ppl_vae.errors import InputError, NonFiniteLossError
from ppl_vae.runs.kinds import KINDS
from ppl_vae.runs.signature import NOT_SET, SET_BY_NAME, Option, options_of, settable
from ppl_vae.utils.terminal import lasting_streams

WIDTH = max(30, min(shutil.get_terminal_size().columns, 100) - 2)  # click's own is 50 at least
CONTEXT = {"help_option_names": ["-h", "--help"], "terminal_width": WIDTH}
WORDS = {"none": None, "true": True, "false": False}
NO_OPTIONS = ("progress", "on_kept", "settings", "objective")  # of functions: not for the command line, or made by hand
BITS = 63  # of a whole number, beside its sign
LONGEST = 600  # letters of a message
TOO_LARGE = re.compile(
    "allocate memory|out of memory|calculation overflowed|multiplication overflow|as a SymInt"
)  # says PyTorch


def value(text: str) -> Any:
    """Return a number, a list or tuple of such values as Python writes them, or else a word."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what looks nearly like Python
            found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    except (TypeError, MemoryError, RecursionError):  # unhashable, or deeply nested
        found = ...
    if not _is_plain(found):
        raise click.BadParameter(
            f"Expected a word, a number of at most {BITS + 1} bits, or a list of such; got {_in_one_line(text):.60}."
        )
    return found


def _is_plain(found: Any) -> bool:
    if isinstance(found, list | tuple):
        return all(map(_is_plain, found))
    if isinstance(found, int):
        return found.bit_length() <= BITS
    return found is None or isinstance(found, float | str)


class WholeNumber(click.ParamType[int]):
    """An integer that PyTorch and NumPy can hold."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        number: int = click.INT.convert(value, param, ctx)
        if number.bit_length() > BITS:
            self.fail(f"{_in_one_line(value):.60} has more than {BITS + 1} bits.", param, ctx)
        return number


TYPES: dict[str, Any] = {
    "os.PathLike[str]": click.Path(path_type=Path), "str": str, "int": WholeNumber(), "float": float,
}  # fmt: skip


def setting(text: str) -> tuple[str, Any]:
    """Return the key and the value of `part.option=value`."""
    key, equals, literal = text.partition("=")
    if not equals or "." not in key:
        raise click.BadParameter(f"Expected part.option=value, for instance prior.latent_dim=2; got {text!r}.")
    return key, value(literal)


class Formatter(click.HelpFormatter):
    """Leaves room for what is said of an option in a narrow terminal, too: then below its name."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write a list of names and what is said of each."""
        super().write_dl(rows, min(col_max, max(10, self.width - 48)), col_spacing)


class Context(click.Context):
    """Writes help for narrow terminals, too."""

    formatter_class = Formatter


class Command(click.Command):
    """Calls its function with what was given only: the function has the defaults."""

    context_class = Context

    def invoke(self, ctx: click.Context) -> Any:
        """Leave out the rest and call it."""
        source = ctx.get_parameter_source
        ctx.params = {k: v for k, v in ctx.params.items() if source(k) is not ParameterSource.DEFAULT}
        return super().invoke(ctx)


def from_signature(
    *functions: str, leave_out: Sequence[str] = (), usual: Mapping[str, str] | None = None, **letters: str
) -> Callable[[Any], Any]:
    """Add the options of functions, "module:function", to a `Command`; of two of one name the first counts.

    By their names: some to leave out, what is usual where the function's default is not, and short options.
    """
    options: dict[str, Option] = {}
    for function in functions:
        options |= {name: o for name, o in options_of(function).items() if name not in options}
    shown = [o for o in options.values() if o.name not in (*NO_OPTIONS, *leave_out) and "Callable" not in o.type]

    def with_options(command: Any) -> Any:
        for option in reversed(shown):
            name, default = option.name, (usual or {}).get(option.name, option.usual)
            command = _as_click(option, [letters[name]] if name in letters else [], default)(command)
        return command

    return with_options


def _as_click(option: Option, letters: list[str], usual: str) -> Callable[[Any], Any]:
    """Return an option of a function as one of the command line."""
    name, kinds = f"--{option.name.replace('_', '-')}", option.kinds
    text = f"{option.help}  [default: {usual}]" if usual else option.help
    if kinds == {"bool"}:
        both = option.default or "None" in option.type  # what is neither is the function's to choose
        switch = f"{name}/--no-{name[2:]}" if both else name
        return click.option(
            switch, *letters, is_flag=True, help=text.replace("[default: True]", f"[default: {name[2:]}]")
        )
    known = [type_ for kind, type_ in TYPES.items() if kind in kinds]
    mixed = "str" in kinds and kinds & {"int", "float", "bool"}
    one = known[0] if known and not mixed else value
    return click.option(name, *letters, type=one, multiple="Sequence[int]" in kinds, help=text)


def parts_options(command: Any) -> Any:
    """Add an option for each kind of part: --prior, --likelihood, ..."""
    for name, kind in reversed(KINDS.items()):
        letters = [kind.letter] if kind.letter else []
        command = click.option(f"--{name}", *letters, metavar="NAME", help=kind.help)(command)
    return command


class App(click.Group):
    """Shows where an error comes from, if it is asked for."""

    context_class = Context

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except Exception as problem:
            if ctx.params["traceback"]:
                click.echo("".join(traceback.format_exception(problem)), err=True)
            raise


@click.group(cls=App, context_settings=CONTEXT)
@click.version_option(package_name="ppl-vae")
@click.option("--traceback", is_flag=True, help="Before an error, show the lines of Python that led to it.")
def app(**_: Any) -> None:
    """Variational autoencoders as probabilistic programs: write P(x | z) P(z), fit it, and know log P(x)."""


@app.command(cls=Command)
@click.argument("model", required=False)
@from_signature("ppl_vae.runs.train:train", guide="-g", data="-d", num_samples="-k", out="-o")
@parts_options
@click.option(
    "--set", "-s", "settings", multiple=True, type=setting, metavar="PART.OPTION=VALUE",
    help="An option of a part, for instance prior.latent_dim=2; parts are those above, and model and guide; "
    "fit and data have the options below. May be repeated; ppl-vae parts lists them.",
)  # fmt: skip
@from_signature(
    *SET_BY_NAME.values(), leave_out=NOT_SET, usual=dict.fromkeys(("epochs", "binarize"), "what suits the data")
)
def train(settings: Sequence[tuple[str, Any]] = (), **given: Any) -> None:
    """Fit MODEL (a name, as vae, or a Python file) to data and check the bound.

    \b
    ppl-vae train vae
    ppl-vae train vae --prior mixture --set prior.num_components=20
    ppl-vae train vae --prior flow --set prior.transforms=5 --set prior.hidden=32,32
    ppl-vae train vae --decoder gated_mlp --encoder gated_mlp --set encoder.hidden=300,300
    ppl-vae train vae --objective iwae --set objective.num_particles=50
    ppl-vae train models/vae.py --data freyfaces --likelihood discretized_logistic
    ppl-vae train image_completion --data mnist --networks tutorial --set condition.visible=quadrant
    ppl-vae train cvae --set data.num_labels=100
    ppl-vae train vae --seeds 5
    ppl-vae train vae --data patients.csv --schema patients.toml
    """  # noqa: D301  (click reads the control character)
    shorthand = {f"{part}.{name}": given.pop(name) for part in SET_BY_NAME for name in settable(part) if name in given}
    several = given.get("seeds") is not None

    def tell(run: Any) -> None:  # before the figures, which may fail
        click.echo(f"seed {run.recipe.seed}: {_told(run)}\n" if several else _told(run))

    try:
        trained = ppl_vae.train(**given, settings=dict(settings) | shorthand, on_data=_tell_of_data, on_evaluated=tell)
    except KeyboardInterrupt:
        click.echo("\nInterrupted. Go on with the same command and --resume.", err=True)
        sys.exit(130)
    runs = trained if several else [trained]
    click.echo("\n".join(map(_files, runs)) if several else f"\n{_files(trained)}")
    if several:
        click.echo(f"\n{ppl_vae.compare(runs)}")


def _tell_of_data(data: Any) -> None:
    """Print what was understood of a person's own data; of a table what its columns are, to be edited and kept."""
    if data.name not in ppl_vae.data.NAMED:
        click.echo(f"{Path(data.name).name}: {data.understood}\n")
    if data.schema is not None:
        click.echo(
            f"{data.schema}\n\nThese lines are kept in schema.toml of the run folder. To change what a column "
            "is, edit them in a file,\nand train with --schema FILE.\n"
        )


def _told(run: Any) -> str:
    """Return what is said of a run that was trained."""
    result = run.config["result"]
    how = " (compiled)" if result["compiled"] else ""
    lines = [
        f"fitted in {result['seconds']} s{how}, best epoch {result['best_epoch']} of {len(run.history.epoch)}"
        f"{', ended inside the warm-up: no epoch was compared' if result.get('warming_up') else ''}\n",
        str(run.evidence),
    ]
    if "accuracy" in result:
        lines.append(f"\nQ(y | x) is right for {result['accuracy']:.2%} of the test data")
    return "\n".join(lines)


def _files(run: Any) -> str:
    """Return where a run that was trained is, with its figures."""
    figures = sorted((run.path / "figures").glob("*.png"))
    return "\n".join([f"{run.path}/: weights, history.csv, evidence.nc", *map(str, figures)])


@app.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@from_signature(
    "ppl_vae.runs.evaluate:evaluate",
    "ppl_vae.evidence.estimators:estimate_evidence",
    data="-d",
    method="-m",
    num_samples="-k",
    leave_out=("num_draws",),
)
@click.option("--doubts", is_flag=True, help="List the data that are not to be trusted, with the reasons.")
@click.option("--interval", is_flag=True, help="Say what the 95% interval is made of, each part with what it rests on.")
def evaluate(run: Path, doubts: bool = False, interval: bool = False, **options: Any) -> None:
    """Estimate log P(x) for the data of RUN, or for new rows, hold it against the bound, and say how far to believe it.

    \b
    ppl-vae evaluate runs/vae-digits --tolerance 0.05 --doubts --interval
    ppl-vae evaluate runs/vae-digits --method sandwich --num-data 50
    ppl-vae evaluate runs/vae-digits --data new.npy
    """  # noqa: D301  (click reads the control character)
    evidence = ppl_vae.evaluate(run, **options, on_kept=lambda words: click.echo(words, err=True))
    click.echo(str(evidence))
    if interval:
        click.echo(f"\n{evidence.interval()}")
    for doubt in evidence.doubts() if doubts else []:
        click.echo(f"datum {doubt.datum}: {doubt.reason}")


@app.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@from_signature(
    "ppl_vae.runs.score:score_run",
    "ppl_vae.runs.score:score",
    "ppl_vae.evidence.estimators:estimate_evidence",
    data="-d",
    method="-m",
    num_samples="-k",
    out="-o",
    leave_out=("num_draws", "given"),
)
def score(run: Path, **options: Any) -> None:
    """Rank new rows by log P(x) under RUN, the least probable first, with p-values at a stated rate of false alarms.

    \b
    ppl-vae score runs/vae-digits --data new.npy
    ppl-vae score runs/vae-digits --data new.npy --alpha 0.01 --fdr 0.1 --out worst.csv

    The test data of RUN, which it was not trained on, say what is usual: of rows like them a share of ALPHA is flagged.
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.score import score_run

    _, path = score_run(run, **options, on_found=lambda found: click.echo(f"{found}\n"))
    click.echo(str(path))


@app.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@from_signature("ppl_vae.runs.encode:encode_run", "ppl_vae.generation.encode:encode", data="-d", out="-o")
def encode(run: Path, **options: Any) -> None:
    """Write z of data by the guide of RUN: the mean of Q(z | x), and draws of it.

    \b
    ppl-vae encode runs/vae-digits
    ppl-vae encode runs/vae-digits --data new.npy --out z.csv
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.encode import encode_run

    _, path = encode_run(run, **options, on_found=lambda found: click.echo(f"{found}\n"))
    click.echo(str(path))


@app.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@from_signature("ppl_vae.runs.evaluate:explain", data="-d")
def explain(run: Path, **options: Any) -> None:
    """Say why the ELBO of RUN is below log P(x), and which of its latents are used."""
    gap, use = ppl_vae.explain(run, **options)
    click.echo(f"{gap}\n\n{use}")


@app.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@from_signature(
    "ppl_vae.runs.calibrate:calibrate_run",
    "ppl_vae.criticism.calibration:calibrate",
    num_simulated="-m",
    num_samples="-k",
    leave_out=("model", "guide", "data", "functions"),
)
def calibrate(run: Path, **options: Any) -> None:
    """Say whether Q(z | x) of RUN is the posterior, and how not, on data that the model draws.

    \b
    ppl-vae calibrate runs/vae-digits
    ppl-vae calibrate runs/vae-digits --num-simulated 5000

    The words are kept in RUN/calibration.txt, the ranks are drawn in RUN/figures/calibration.png.
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.calibrate import calibrate_run

    _, paths = calibrate_run(run, **options, on_found=lambda found: click.echo(f"{found}\n"))
    click.echo("\n".join(map(str, paths)))


@app.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@from_signature(
    "ppl_vae.runs.sample:sample_run",
    "ppl_vae.generation.generate:sample",
    size="-n",
    label="-l",
    condition="-c",
    data="-d",
    out="-o",
)
def sample(run: Path, **options: Any) -> None:
    """Generate new data from the model of RUN: z from the prior, the guide thrown away.

    A conditional model is given a label, or what stands in a file: conditions alone (--condition: an image, a folder of
    images, an array; a string of images also beside each other in one image), or new rows with theirs (--data: x and y,
    as in training). Else it is given test data.

    \b
    ppl-vae sample runs/cvae-digits --label 7
    ppl-vae sample runs/image_completion-mnist --condition half.png
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.sample import sample_run

    click.echo(str(sample_run(run, **options)))


@app.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN RUN ...")
@from_signature("ppl_vae.runs.compare:compare")
def compare(runs: tuple[Path, ...], **options: Any) -> None:
    """Compare models by log P(x) on the same test data, datum by datum; the best comes first.

    RUN is the folder of a run, or one that holds several (train --seeds). Runs that differ in their seed only are taken
    together, as one model: its mean over seeds, with the errors of differences from data and from luck in training.

    \b
    ppl-vae compare runs/vae-digits runs/vae-mixture-digits
    ppl-vae train vae --seeds 5
    ppl-vae train vae --prior mixture --seeds 5
    ppl-vae compare runs/vae-digits runs/vae-mixture-digits
    ppl-vae compare runs/*/seed-*

    log_px, se, log_px_diff, dse, run_sd, mcse and gap are in nats per datum: log P(x), its standard error, how far it
    is below the best, the error of that, its standard deviation over seeds, its Monte Carlo error, and log P(x) - ELBO.
    """  # noqa: D301  (click reads the control character)
    click.echo(str(ppl_vae.compare(runs, **options)))


@app.command(cls=Command)
@click.argument("before", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("after", type=click.Path(path_type=Path), metavar="RUN")
@from_signature(
    "ppl_vae.runs.difference:explain_difference",
    "ppl_vae.evidence.estimators:estimate_evidence",
    method="-m",
    num_samples="-k",
    leave_out=("data", "names", "evidence", "num_draws", "given"),
)
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it, with the data that moved most, into it.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Write the parts of each datum to this .csv file.")
def diff(before: Path, after: Path, figure: Path | None = None, out: Path | None = None, **options: Any) -> None:
    """Say why the second RUN gives the same data another log P(x) than the first: reconstruction, latents, or gap.

    Without options the estimates of log P(x) that are kept in the folders are used.

    \b
    ppl-vae diff runs/vae-digits runs/vae-mixture-digits
    ppl-vae diff runs/vae-digits runs/vae-mixture-digits --figure why.png --out why.csv
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.difference import draw, write_table
    from ppl_vae.runs.figures import costs_no_result, figure_file
    from ppl_vae.utils.files import check_can_write

    for file in (out, figure and figure_file(figure)):
        if file is not None:
            check_can_write(file)
    found = ppl_vae.explain_difference(before, after, **options)
    click.echo(str(found))
    if out is not None:
        write_table(found, out)
    if figure is not None:
        with costs_no_result(f"{figure} is not drawn"):
            draw(found, before, figure, **{k: v for k, v in options.items() if k in ("split", "num_data", "trust")})


@app.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def new(folder: Path) -> None:
    """Copy the model and guide files into DIR, to be edited."""
    then = f"\nEdit one, then: ppl-vae train {folder / 'models' / 'vae.py'}"
    click.echo("\n".join([*map(str, ppl_vae.new(folder)), then]))


@app.command(cls=Command)
@click.argument("kind", required=False)
@from_signature("ppl_vae.runs.listing:list_parts", model="-m", guide="-g")
def parts(**options: Any) -> None:
    """List what a program can be made of: models, guides, and all parts of KIND, with their options.

    A part is a class, by its name in snake case; its options are given as --set KIND.option=value.

    \b
    ppl-vae parts prior
    ppl-vae parts likelihood --model my/file.py
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.listing import as_text

    click.echo(as_text(ppl_vae.list_parts(**options)))


@app.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@from_signature("ppl_vae.runs.evaluate:measure", num_samples="-k")
def measure(run: Path, against: Path | None = None, trust: bool = False, **options: Any) -> None:
    """Measure the answers of RUN, a conditional model, to conditions with many right ones.

    What is printed is kept in RUN/measures.txt, and answers are drawn beside the truth in RUN/figures.

    \b
    ppl-vae measure runs/image_completion-mnist --against runs/regressor-mnist
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.evaluate import keep_measures
    from ppl_vae.runs.figures import costs_no_result

    measured = ppl_vae.load(run, trust=trust)
    other = None if against is None else ppl_vae.load(against, trust=trust)
    found = ppl_vae.measure(measured, against=other, **options)
    click.echo(f"{found}\n")  # before it is kept and drawn, which may fail
    with costs_no_result(f"{run} does not have all of these measures"):
        click.echo("\n".join(map(str, keep_measures(found, measured, other))))


@app.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@from_signature(
    "ppl_vae.runs.impute:impute_run", "ppl_vae.generation.impute:impute", data="-d", num_samples="-k", out="-o"
)
def impute(run: Path, **options: Any) -> None:
    """Fill in what is missing (NaN) in data, by the model of RUN: E[x | what is observed], and draws.

    A .npy file gets the mean; a .npz file mean, mcse, draws, ess and khat.

    \b
    ppl-vae train vae --set data.missing=0.3
    ppl-vae impute runs/vae-digits
    ppl-vae impute runs/vae-digits --data mine.npy --out mended.npy
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.impute import impute_run

    _, paths = impute_run(run, **options, on_found=lambda found: click.echo(f"{found}\n"))
    click.echo("\n".join(map(str, paths)))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a person can mend ends in one line and exit code 2."""
    if arguments is None:  # a line in the terminal, and none of the code that it comes from
        warnings.showwarning = lambda message, *_: click.echo(f"Warning: {_in_one_line(message)}", err=True)
    with lasting_streams() as (out, _):
        code = _run(arguments)
        out.flush()
        if out.problem is not None and code == 0:
            code = _not_printed(out.problem)
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    """Run a command and return its exit code: the one door through which every error goes."""
    try:
        if nul := [argument for argument in arguments or () if "\0" in argument]:
            raise click.UsageError(f"Expected arguments without the character NUL; got {nul[0]!r}.")
        return app.main(arguments, standalone_mode=False) or 0
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nStopped. Nothing new was kept; what was there before is as it was.", err=True)
        return 130
    except Exception as problem:
        click.echo(f"Error: {_sentence(problem)}", err=True)
        return 2


def _sentence(problem: Exception) -> str:
    """Return what is said of an error: what a person can mend, or that they need not."""
    if isinstance(problem, click.ClickException):
        return _in_one_line(problem.format_message())
    if isinstance(problem, InputError | NonFiniteLossError):
        options = problem.options if isinstance(problem, InputError) else ""
        return _in_one_line(problem) + (f" On the command line: {_in_one_line(options)}." if options else "")
    what = _in_one_line(f"{type(problem).__name__}: {problem}")
    if isinstance(problem, OSError):
        where = f" ({problem.filename})" if problem.filename else ""
        found = f"{problem.strerror or problem}{where}"
        return _in_one_line(f"Expected files and folders that can be used; got: {found}. Choose another place or name.")
    if isinstance(problem, RecursionError):
        return f"Expected what is less deeply nested; got too many levels ({what:.100}). Write it flat."
    if isinstance(problem, MemoryError | OverflowError) or TOO_LARGE.search(str(problem)):
        return f"Expected numbers and data that fit into memory; got {what:.200}. Choose smaller ones."
    return f"this is a fault in ppl-vae, not in what you gave ({what:.300}). See it with --traceback, and report it."


def _in_one_line(message: Any) -> str:
    """Return a message without what would break the line, and without the middle of what nobody reads."""
    text = " ".join(str(message).split("\n"))
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} ... {text[-190:]}"


def _not_printed(problem: OSError) -> int:
    """Return the exit code where the result could not be printed; who closes a pipe (`| head`) knows why."""
    if problem.errno == errno.EPIPE:
        return 1
    why = _in_one_line(problem.strerror or problem)
    click.echo(f"Error: Expected to print the result; got: {why}. What was made is kept, but not said.", err=True)
    return 2
