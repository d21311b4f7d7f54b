"""What the package uses of Pyro and PyTorch that is no public interface of theirs: an upgrade fails here, in words.

`USED` says of each private name where it is used, what breaks without it, and how to see that it is there. Names that
begin with an underscore are found in the code as well, so that a new one fails the second test until it has a row.
`INTERNAL` are names without an underscore that no documentation promises.
"""

import ast
import re
from importlib import import_module
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.ops.packed import pack
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
NAMED_TUPLES = {"_replace", "_asdict", "_fields"}  # public, in spite of their underscore
READERS = {"getattr", "setattr", "hasattr", "get"}


def model():
    with pyro.plate("data", 2, dim=-1):
        return pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})


def a_deterministic_site():
    return poutine.trace(lambda: pyro.deterministic("d", torch.zeros(2))).get_trace().nodes["d"]["infer"]


def an_enumerated_trace():
    trace = poutine.trace(poutine.enum(model, first_available_dim=-2)).get_trace()
    trace.symbolize_dims()
    return trace


def a_local_context():
    with pyro.settings.context(module_local_params=True):
        context = import_module("pyro.nn.module")._Context()
        with context:
            assert {"active", "used", "cache"} <= vars(context).keys()
            return context._param_ctx


def in_keys(name, mapping):
    assert name in mapping
    return mapping[name]


# (file, name) -> what breaks without it, and what finds the name.
USED = {
    ("traces/pair.py", "_Context"): (
        "modules that were made before `fit` find no parameters of their own",
        lambda: import_module("pyro.nn.module")._Context,
    ),
    ("compilation/record.py", "_loader"): (
        "each compiled fit leaves the source code of its graphs",
        lambda: import_module("torch.fx.graph_module")._loader.eval_cache,
    ),
    ("traces/pair.py", "_PYRO_STACK"): (
        "a child that was forked while another thread ran a pair runs inside of that one's handlers",
        lambda: import_module("pyro.poutine.runtime")._PYRO_STACK,
    ),
    ("utils/progress.py", "_lock"): (
        "a progress bar settles how processes are started, and set_start_method is refused",
        lambda: tqdm.get_lock() is tqdm._lock,
    ),
    ("traces/pair.py", "_param_ctx"): (
        "PyroModules do not share what they ask for by pyro.param, and Pyro refuses them",
        a_local_context,
    ),
    ("traces/programs.py", "_orig_mod"): (
        "the arguments of modules that torch.compile was given are not known",
        lambda: in_keys("_orig_mod", dict(torch.compile(torch.nn.Linear(1, 1)).named_children())),
    ),
    ("utils/modules.py", "_version"): (
        "buffers that a step tried out has changed are not put back",
        lambda: torch.zeros(1)._version,
    ),
    ("traces/sites.py", "_deterministic"): (
        "values that a program only computes count as latents",
        lambda: in_keys("_deterministic", a_deterministic_site()),
    ),
    ("traces/plates.py", "_enumerate_dim"): (
        "discrete latents are not summed out",
        lambda: in_keys("_enumerate_dim", an_enumerated_trace().nodes["z"]["infer"]),
    ),
    ("traces/plates.py", "_dim_to_symbol"): (
        "discrete latents cannot be summed out",
        lambda: in_keys("_dim_to_symbol", an_enumerated_trace().nodes["z"]["infer"]),
    ),
    ("traces/plates.py", "_pyro_dims"): (
        "discrete latents cannot be summed out",
        lambda: pack(torch.zeros(2), {-1: "a"})._pyro_dims,
    ),
    ("distributions/unwrap.py", "_mask"): (
        "a guide with masked sites cannot be refined",
        lambda: dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False]))._mask,
    ),
    ("distributions/masks.py", "_mask"): (
        "a guide with masked sites cannot be refined",
        lambda: dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False]))._mask,
    ),
    ("distributions/flows.py", "_validate_args"): (
        "PyTorch's validation is off for the whole process once zuko is imported",
        lambda: torch.distributions.Distribution._validate_args,
    ),
    ("generation/programs.py", "_RETURN"): (
        "samples of our models are not found in their traces",
        lambda: poutine.trace(model).get_trace().nodes["_RETURN"]["value"],
    ),
    ("compilation/capture.py", "_inductor"): (
        "nothing is compiled; plain Pyro is used, with a warning",
        lambda: import_module("torch._inductor").compile,
    ),
    ("compilation/capture.py", "_local_scalar_dense"): (
        "what looks at values of tensors is not compiled, as before, but the warning does not say why",
        lambda: torch.ops.aten._local_scalar_dense,
    ),
    ("compilation/rewrites.py", "_linear_pointwise"): (
        "products are not given to oneDNN where it is faster",
        lambda: torch.ops.mkldnn._linear_pointwise,
    ),
}

INTERNAL = {
    "traces/pair.py": [
        "pyro.nn.module",
        "pyro.params.param_store.StateDict",
        "pyro.params.param_store.user_param_name",
    ],
    "traces/parameters.py": ["pyro.params.param_store.StateDict"],
    "traces/plates.py": [
        "pyro.ops.contract.contract_to_tensor",
        "pyro.ops.packed.pack",
        "pyro.ops.packed.unpack",
        "pyro.poutine.Trace.symbolize_dims",
        "pyro.poutine.util.prune_subsample_sites",
        "pyro.distributions.util.scale_and_mask",
    ],
    "traces/handlers.py": ["pyro.poutine.uncondition_messenger.UnconditionMessenger"],
    "distributions/unwrap.py": [
        "pyro.distributions.torch_distribution.ExpandedDistribution",
        "pyro.distributions.torch_distribution.MaskedDistribution",
    ],
    "objectives/surrogate.py": [
        "pyro.infer.trace_elbo.torch_item",
        "pyro.infer.trace_elbo.warn_if_nan",
        "pyro.infer.trace_mean_field_elbo.torch_item",
    ],
    "base.py": ["pyro.poutine.runtime.am_i_wrapped"],
    "missing.py": ["pyro.distributions.util.sum_rightmost"],
    "compilation/record.py": ["torch.fx.experimental.proxy_tensor.make_fx"],
    "compilation/rewrites.py": ["torch.library.Library", "torch.ops.aten"],
}


@pytest.mark.parametrize(("where", "name"), USED)
def test_each_private_name_is_there(where, name):
    breaks, find = USED[where, name]
    try:
        find()
    except Exception as problem:
        pytest.fail(f"{name}, used in ppl_vae/{where}, is gone ({problem!r}): without it {breaks}.")


@pytest.mark.parametrize(("where", "path"), [(where, path) for where, paths in INTERNAL.items() for path in paths])
def test_each_internal_name_is_there(where, path):
    head, *rest = path.split(".")
    assert rest[-1] in (ROOT / "ppl_vae" / where).read_text(), f"{path} is not used in ppl_vae/{where}: remove its row"
    module, found = head, import_module(head)
    for name in rest:
        module = f"{module}.{name}"
        found = getattr(found, name, None) or import_module(module)
    assert found is not None


def test_no_other_private_name_is_used():
    """Underscores on anything but `self`, `cls` and `super()`, and in strings that name an attribute or a key."""
    used = {}
    for path in sorted((ROOT / "ppl_vae").rglob("*.py")):
        for name, line in private_names(ast.parse(path.read_text())):
            used.setdefault((str(path.relative_to(ROOT / "ppl_vae")), name), line)
    new = [f"ppl_vae/{where}:{line} {name}" for (where, name), line in used.items() if (where, name) not in USED]
    assert not new, f"Use a public name, or add a row to USED that says what breaks without it: {', '.join(new)}"
    gone = sorted(f"{name} of {where}" for where, name in USED if (where, name) not in used)
    assert not gone, f"No longer used, so remove their rows from USED: {', '.join(gone)}"


def private_names(tree):
    """Yield (name, line) of each private name of something else's: not of a function that the file defines itself."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] != "ppl_vae":
                names = [*module.split("."), *(alias.name for alias in node.names)]
            case ast.Import():
                names = [part for alias in node.names for part in alias.name.split(".")]
            case (
                ast.Attribute(value=ast.Name(id="self" | "cls")) | ast.Attribute(value=ast.Call(func=ast.Name("super")))
            ):
                names = []
            case ast.Attribute(attr=name):
                names = [name]
            case ast.Subscript(slice=ast.Constant(value=str(name))):
                names = [name]
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in READERS:
                names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            case ast.Compare(left=ast.Constant(value=str(name))):  # "name" in a message
                names = [name]
            case _:
                names = []
        for name in names:
            if re.match(r"_[A-Za-z]", name) and name not in NAMED_TUPLES | own:
                yield name, node.lineno


@pytest.mark.parametrize(
    "line",
    [
        "from pyro.infer.elbo import _private",
        "from torch._dynamo import config",
        "import torch._dynamo",
        "trace._private",
        "other()._private",
        "getattr(site, '_private', None)",
        "site['infer'].get('_private')",
        "site['infer']['_private']",
    ],
)
def test_a_new_use_is_found(line):
    assert [name for name, _ in private_names(ast.parse(line))][:1] in (["_private"], ["_dynamo"])


def test_our_own_are_left_alone():
    text = "self._a\ncls._b\nsuper()._pyro_sample(msg)\nfrom ppl_vae.x import _c\nvalue._replace(x=1)\nx.__name__\n"
    text += "def _d(self, other):\n    return other._d()"
    assert not list(private_names(ast.parse(text)))
