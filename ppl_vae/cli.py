"""The command line: thin over the functions of the same names. Nothing heavy is imported before it is needed."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ppl_vae.runs.kinds import CHOSEN

Command = Callable[..., Any]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Setting(click.ParamType[tuple[str, Any]]):
    """An option of a part, `part.option=value`; the value is a Python literal or else a word."""

    name = "part.option=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Split at the first equals sign and read the value."""
        key, equals, text = str(value).partition("=")
        if not equals or "." not in key:
            self.fail(f"Expected part.option=value, for instance prior.latent_dim=2; got {value!r}.", param, ctx)
        words = {"none": None, "true": True, "false": False}
        if text.lower() in words:
            return key, words[text.lower()]
        try:
            return key, ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return key, text


def parts_options(command: Command) -> Command:
    """Add an option for each kind of part: --prior, --likelihood, ..."""
    for name, kind in reversed(CHOSEN.items()):
        letters = [kind.letter] if kind.letter else []
        command = click.option(f"--{name}", *letters, metavar="NAME", help=kind.help)(command)
    return command


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="ppl-vae")
def app() -> None:
    """Variational autoencoders as probabilistic programs: write P(x | z) P(z), fit it, and know log P(x)."""


@app.command()
@click.argument("model", default="vae")
@click.option("--guide", "-g", help="A guide's name or file.  [default: the one that goes with the model]")
@click.option(
    "--data",
    "-d",
    default="digits",
    show_default=True,
    help="digits, mnist, binarized_mnist, freyfaces, or your own .npy, .npz or folder of images.",
)
@parts_options
@click.option(
    "--set",
    "-s",
    "settings",
    multiple=True,
    type=Setting(),
    help="An option of a part, for instance prior.latent_dim=2; parts are those above, and model, guide, data, fit. "
    "May be repeated; ppl-vae parts lists them.",
)
@click.option("--epochs", type=int, help="The same as --set fit.epochs=N.  [default: what suits the data]")
@click.option("--batch-size", type=int, help="The same as --set fit.batch_size=N.  [default: 100]")
@click.option("--learning-rate", type=float, help="The same as --set fit.learning_rate=R.  [default: 0.001]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, batches and noise.")
@click.option("--num-samples", "-k", type=int, default=1000, show_default=True, help="K of the bound check.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="The run folder.  [default: runs/MODEL-...-DATA]")
@click.option("--resume", is_flag=True, help="Go on with the run in that folder, if there is one.")
def train(
    settings: tuple[tuple[str, Any], ...], epochs: Any, batch_size: Any, learning_rate: Any, **options: Any
) -> None:
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
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.train import train as run_training

    shorthand = {"fit.epochs": epochs, "fit.batch_size": batch_size, "fit.learning_rate": learning_rate}
    given = {key: value for key, value in shorthand.items() if value is not None}
    try:
        run = run_training(**options, settings=dict(settings) | given)
    except KeyboardInterrupt:
        click.echo("\nInterrupted. Go on with the same command and --resume.", err=True)
        sys.exit(130)
    result = run.config["result"]
    how = " (compiled)" if result["compiled"] else ""
    click.echo(f"fitted in {result['seconds']} s{how}, best epoch {result['best_epoch']} of {len(run.history.epoch)}\n")
    click.echo(str(run.evidence))
    if "accuracy" in result:
        click.echo(f"\nQ(y | x) is right for {result['accuracy']:.2%} of the test data")
    click.echo(f"\n{run.path}/: weights, history.csv, evidence.nc")
    for figure in sorted((run.path / "figures").glob("*.png")):
        click.echo(str(figure))


@app.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--method",
    "-m",
    default="importance",
    show_default=True,
    help="importance, ais or sandwich; the last two take minutes: see --num-data.",
)
@click.option("--joint", is_flag=True, help="Of a conditional model, log P(x, y) instead of log P(x | y).")
@click.option("--num-samples", "-k", type=int, help="K, draws of z for each datum.  [default: 1000]")
@click.option("--proposal", help="guide, refined, or prior.  [default: guide]")
@click.option("--tolerance", type=float, help="Double K where needed until log P(x) is known to so many nats.")
@click.option("--max-samples", type=int, help="How far a tolerance may raise K.  [default: 64 K]")
@click.option("--num-temperatures", type=int, help="Steps of annealing.  [default: 1000]")
@click.option("--num-chains", type=int, help="Chains of annealing for each datum.  [default: 16]")
@click.option("--num-leapfrog", type=int, help="Leapfrog steps of an HMC transition.  [default: 10]")
@click.option("--split", default="test", show_default=True, help="train, validation or test.")
@click.option("--num-data", type=int, help="Use about this many data, evenly spaced.  [default: all]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples.")
@click.option("--doubts", is_flag=True, help="List the data that are not to be trusted, with the reasons.")
def evaluate(run: Path, doubts: bool, **options: Any) -> None:
    """Estimate log P(x) for the data of RUN, hold it against the bound, and say how far to believe it.

    \b
    ppl-vae evaluate runs/vae-digits --tolerance 0.05 --doubts
    ppl-vae evaluate runs/vae-digits --method sandwich --num-data 50
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.evaluate import evaluate as run_evaluation

    given = {key: value for key, value in options.items() if value is not None}
    evidence = run_evaluation(run, **given, on_kept=lambda words: click.echo(words, err=True))
    click.echo(str(evidence))
    for doubt in evidence.doubts() if doubts else []:
        click.echo(f"datum {doubt.datum}: {doubt.reason}")


@app.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", default="test", show_default=True, help="train, validation or test.")
@click.option("--num-data", type=int, default=200, show_default=True, help="About so many data, evenly spaced.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples.")
def explain(run: Path, **options: Any) -> None:
    """Say why the ELBO of RUN is below log P(x), and which of its latents are used."""
    from ppl_vae.runs.evaluate import explain as run_explanation

    gap, use = run_explanation(run, **options)
    click.echo(f"{gap}\n\n{use}")


@app.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--size", "-n", type=int, help="How many; for each condition.  [default: what fills a picture]")
@click.option("--label", "-l", type=int, multiple=True, help="What is given; may be repeated.  [default: each]")
@click.option("--condition", "-c", type=click.Path(path_type=Path), help="A file with what the model is given.")
@click.option("--mean/--no-mean", default=True, show_default=True, help="E[x | z], or draws of x.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="A .png or .npy file.  [default: in RUN/figures]")
def sample(run: Path, **options: Any) -> None:
    """Generate new data from the model of RUN: z from the prior, the guide thrown away.

    A conditional model is given a label, or what stands in a file: an image, a folder of images, an array; a string of
    images also beside each other in one image. Else it is given test data.

    \b
    ppl-vae sample runs/cvae-digits --label 7
    ppl-vae sample runs/image_completion-mnist --condition half.png
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.sample import sample_run

    click.echo(str(sample_run(run, **options)))


@app.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN RUN ...")
def compare(runs: tuple[Path, ...]) -> None:
    """Compare runs by log P(x) on the same test data, pair by pair; the best comes first."""
    from ppl_vae.runs.evaluate import compare as compare_runs

    click.echo(compare_runs(runs).to_string(float_format="{:.3f}".format))


@app.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def new(folder: Path) -> None:
    """Copy the model and guide files into DIR, to be edited."""
    from ppl_vae.runs.build import new as copy_files

    for path in copy_files(folder):
        click.echo(str(path))
    click.echo(f"\nEdit one, then: ppl-vae train {folder / 'models' / 'vae.py'}")


@app.command()
@click.argument("kind", required=False)
@click.option("--model", "-m", help="A Python file, to list what is in it, too.")
@click.option("--guide", "-g", help="The same of a guide's file.")
def parts(**options: Any) -> None:
    """List what a program can be made of: models, guides, and all parts of KIND, with their options.

    A part is a class, by its name in snake case; its options are given as --set KIND.option=value.

    \b
    ppl-vae parts prior
    ppl-vae parts likelihood --model my/file.py
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.listing import as_text, list_parts

    click.echo(as_text(list_parts(**options)))


@app.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--against", type=click.Path(path_type=Path), help="Another run of the same task: the regressor.")
@click.option("--num-samples", "-k", type=int, default=1000, show_default=True, help="K of log P(x | y).")
@click.option("--num-answers", type=int, default=20, show_default=True, help="Answers to each condition.")
@click.option("--num-data", type=int, default=1000, show_default=True, help="Conditions, of evenly spaced test data.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples and of the classifier.")
def measure(run: Path, **options: Any) -> None:
    """Measure the answers of RUN, a conditional model, to conditions with many right ones.

    What is printed is kept in RUN/measures.txt, and answers are drawn beside the truth in RUN/figures.

    \b
    ppl-vae measure runs/image_completion-mnist --against runs/regressor-mnist
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.evaluate import keep_measures
    from ppl_vae.runs.evaluate import measure as run_measures

    found = run_measures(run, **options)
    click.echo(f"{found}\n")
    for path in keep_measures(found, run, options["against"]):
        click.echo(str(path))


@app.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", "-d", type=click.Path(path_type=Path), help="A .npy or .npz file.  [default: RUN's test data]")
@click.option("--num-data", type=int, help="Use about this many data, evenly spaced.  [default: all]")
@click.option("--num-samples", "-k", type=int, default=1000, show_default=True, help="K, draws of z for each datum.")
@click.option("--num-draws", type=int, default=10, show_default=True, help="Draws of x for each datum.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="A .npy or .npz file.  [default: RUN/imputed.npz]")
def impute(run: Path, **options: Any) -> None:
    """Fill in what is missing (NaN) in data, by the model of RUN: E[x | what is observed], and draws.

    A .npy file gets the mean; a .npz file mean, mcse, draws, ess and khat.

    \b
    ppl-vae train vae --set data.missing=0.3
    ppl-vae impute runs/vae-digits
    ppl-vae impute runs/vae-digits --data mine.npy --out mended.npy
    """  # noqa: D301  (click reads the control character)
    from ppl_vae.runs.impute import impute_run

    imputation, paths = impute_run(run, **options)
    click.echo(f"{imputation}\n")
    for path in paths:
        click.echo(str(path))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a person can mend ends in one line and exit code 2."""
    try:
        sys.exit(app.main(arguments, standalone_mode=False) or 0)
    except click.ClickException as problem:
        _fail(problem.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nStopped. Nothing new was kept; what was there before is as it was.", err=True)
        sys.exit(130)
    except Exception as problem:
        from ppl_vae.errors import InputError, NonFiniteLossError

        if isinstance(problem, InputError | NonFiniteLossError):
            _fail(str(problem))
        raise


def _fail(message: str) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(2)
