"""Labels, completing an image and the next digit on MNIST at full length: 60,000 steps each, then all measures.

    PPL_VAE_DATA=... python tests/benchmarks/conditional_mnist.py runs/

trains what that folder does not hold yet (four trainings of 1/2 to 1 1/2 hours each on one core; an interrupted one is
resumed), measures each on the whole test split (K = 1,000, 20 answers to each condition), and writes the tables and
figures that README.md and notebooks/4_conditional.ipynb show into docs/.
"""

import sys
from pathlib import Path

import torch

import ppl_vae
from ppl_vae.conditions import Label
from ppl_vae.criticism.answers import given
from ppl_vae.data.splits import evenly
from ppl_vae.generation.generate import same_latents
from ppl_vae.plots import side_by_side
from ppl_vae.runs.evaluate import keep_measures
from ppl_vae.runs.figures import answers, beside, labelled, save_figure

DOCS = Path(__file__).parents[2] / "docs"
LENGTH = {"fit.epochs": 120, "fit.batch_size": 100}  # 50,000 training data: 60,000 steps
TUTORIAL = {"fit.weight_decay": 5e-4, "fit.schedule": "constant"} | LENGTH
RUNS = {
    "completion": ("image_completion", {"networks": "tutorial"}, {"prior.latent_dim": 30} | TUTORIAL),
    "regressor": ("regressor", {"networks": "tutorial"}, TUTORIAL),
    "cvae": ("cvae", {}, {"prior.latent_dim": 20} | LENGTH),
    "next": ("next_digit", {"likelihood": "bernoulli"}, {"prior.latent_dim": 20} | LENGTH),
}


def main(folder: Path) -> None:
    """Train what is missing, measure, and draw."""
    for name, (model, parts, settings) in RUNS.items():
        if not (folder / name / "evidence.nc").exists():
            ppl_vae.train(
                model, data="mnist", **parts, settings=settings, out=folder / name, num_samples=100, resume=True
            )
    text = []
    for name, against in (("completion", "regressor"), ("cvae", None), ("next", None)):
        other = None if against is None else folder / against
        if not (folder / name / "measures.txt").exists():
            found = ppl_vae.measure(folder / name, against=other, num_data=None)
            keep_measures(found, folder / name, other)
        text.append((folder / name / "measures.txt").read_text())
    (DOCS / "conditional_mnist.txt").write_text("\n".join(text))
    draw(folder)


def draw(folder: Path) -> None:
    """Draw the figures of docs/ from the runs."""
    runs = {name: ppl_vae.load(folder / name) for name in RUNS}
    completion, regressor, cvae, succeeding = (runs[name].model for name in RUNS)
    test = runs["completion"].data().test
    models = {"E[x | z, y], z drawn from the prior": completion, "the regressor's E[x | y]": regressor}
    save_figure(beside(models, test), DOCS / "completion.png")
    some = evenly(test, 8)
    save_figure(answers(completion, given(completion, some), truth=some.x, columns=13), DOCS / "completions.png")
    some = evenly(runs["next"].data().test, 8)
    save_figure(answers(succeeding, given(succeeding, some), truth=some.x, columns=11), DOCS / "next_digit.png")
    assert isinstance(cvae.condition, Label)
    digits = torch.arange(cvae.condition.num_classes)
    save_figure(labelled(cvae, digits, columns=15), DOCS / "labels.png")
    styles = same_latents(cvae, 8, y=digits).flatten(0, 1)
    save_figure(side_by_side({"one z in each row": styles}, columns=len(digits)), DOCS / "styles.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
