"""The one name for all methods: its signature, the options that a method does not have, and one check for all of it."""

import inspect
import re
from dataclasses import MISSING, fields

import pytest
import torch
from pairs import mean_guide, mean_model

from ppl_vae import InputError, estimate_evidence, to_arviz
from ppl_vae.evidence import prepare
from ppl_vae.evidence.estimators import METHODS, options_of

OPTIONS = {name: p for name, p in inspect.signature(estimate_evidence).parameters.items() if p.kind is p.KEYWORD_ONLY}


def test_the_signature_has_every_option_with_type_default_and_help():
    assert set(OPTIONS) == {"method", "given", *(name for method in METHODS for name in options_of(method))}
    text = inspect.getdoc(estimate_evidence).split("Args:")[1].split("Returns:")[0]
    entries = re.findall(r"^ {4}(\w+): ([^\n]+)", text, re.MULTILINE)
    assert [name for name, _ in entries] == ["model", "guide", "data", *OPTIONS]
    for name, option in OPTIONS.items():
        assert option.annotation is not option.empty and option.default is not option.empty, name
        assert re.match(r"[^.]+[.;:]", dict(entries)[name]), (
            name
        )  # the first sentence, or part of it, in the first line
    for method in METHODS.values():
        for field in fields(method.options):
            assert field.default in (MISSING, OPTIONS[field.name].default)


def test_to_arviz_has_every_option_of_importance_sampling():
    assert set(inspect.signature(to_arviz).parameters) == {
        "model",
        "guide",
        "data",
        "method",
        *options_of("importance"),
    }


def test_an_option_in_the_wrong_place_is_told():
    x = torch.randn(3)
    with pytest.raises(
        InputError, match="'sandwich' has no option num_draws: it belongs to method='auto' or 'importance'"
    ):
        estimate_evidence(mean_model, mean_guide, x, method="sandwich", num_draws=0)
    with pytest.raises(InputError, match="'auto' has no option num_chain: did you mean 'num_"):
        estimate_evidence(mean_model, mean_guide, x, num_chain=3)
    with pytest.raises(InputError, match="no option sed: did you mean 'seed'"):
        to_arviz(mean_model, mean_guide, x, sed=3)


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_the_data_are_checked_once(monkeypatch, proposal):
    """Each stage runs the programs anew, on the data that they were tried on, never on all."""
    sizes, check = [], prepare.check
    monkeypatch.setattr(
        prepare, "check", lambda pair, source, **how: sizes.append(len(source)) or check(pair, source, **how)
    )
    options = {"num_temperatures": 2, "num_chains": 2, "num_leapfrog": 1, "num_samples": 2, "proposal": proposal}
    estimate_evidence(mean_model, mean_guide, torch.randn(300), method="sandwich", **options)
    assert sizes == [300, 256, 256]
