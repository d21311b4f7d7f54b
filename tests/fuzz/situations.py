"""Pyro's own examples, small enough for log P(x) by quadrature: as they ship (CEVAE), or the same written anew.

Each function returns an `Example`, whose `truth()` is log P(x) of each datum with the weights as they are at the time,
by sums over grids that read networks and no traces. It is None where a datum has no log P(x) of its own.

Source: https://pyro.ai/examples, https://github.com/pyro-ppl/pyro/tree/dev/examples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.cevae import CEVAE, TraceCausalEffect_ELBO
from pyro.distributions.transforms import (
    conditional_affine_autoregressive,
    conditional_planar,
    conditional_radial,
    conditional_spline,
    planar,
)
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.nn.functional import one_hot, softmax, softplus

EXAMPLES: dict[str, Callable[[], "Example"]] = {}


@dataclass
class Example:
    model: Any
    guide: Any
    data: tuple[torch.Tensor, ...]
    truth: Callable[[], torch.Tensor] | None
    modules: tuple[nn.Module, ...] = ()  # set to evaluation for `truth`
    objective: Callable[[], Any] = Trace_ELBO
    has_prior: bool = True  # whether draws from the prior say anything in reasonable time
    bounded: bool = True  # whether the history's ELBO is one of this log P(x)
    latent: str = "z"  # a site of the posterior
    conditions: dict[str, Any] = field(default_factory=dict)  # of `sample`


def example(function):
    EXAMPLES[function.__name__.replace("_", " ")] = function
    return function


def grid(dim, edge=6.0, count=161):
    """Nodes [G, dim] and log of N(z; 0, 1) dz at them, [G]."""
    line = torch.linspace(-edge, edge, count, dtype=torch.double)
    z = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    return z, -0.5 * (z**2).sum(1) - dim * (0.5 * math.log(2 * math.pi) - math.log(float(line[1] - line[0])))


def normal(v, loc, scale):
    return -0.5 * ((v - loc) / scale) ** 2 - torch.log(torch.as_tensor(scale)) - 0.5 * math.log(2 * math.pi)


def bernoulli(v, p):
    return v * torch.log(p) + (1 - v) * torch.log1p(-p)


def mlp(*sizes, last=None):
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Softplus())][:-1]
    return nn.Sequential(*layers, *([last] if last is not None else []))


class Gaussian(nn.Module):
    """A network that gives a mean and a standard deviation, as Pyro's tutorials have it."""

    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.net = mlp(inputs, hidden, 2 * outputs)

    def forward(self, *inputs):
        loc, raw = self.net(torch.cat(inputs, -1)).chunk(2, -1)
        return loc, 0.3 + softplus(raw)


def doubled(module, *inputs):
    """A network's answer in double precision, computed in single."""
    with torch.no_grad():
        found = module(*(v.float() for v in inputs))
    return tuple(f.double() for f in found) if isinstance(found, tuple) else found.double()


def binary(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    style = torch.randn(count, 2, generator=generator) @ torch.randn(2, size, generator=generator)
    return torch.bernoulli(torch.sigmoid(1.5 * style), generator=generator)


@example
def vae():
    """examples/vae/vae.py: methods of a plain nn.Module that call pyro.module."""

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = Gaussian(6, 8, 2), mlp(2, 8, 6, last=nn.Sigmoid())

        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z_loc, z_scale = torch.zeros(x.shape[0], 2), torch.ones(x.shape[0], 2)
                z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
                loc_img = self.decoder.forward(z)
                pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x.reshape(-1, 6))
                return loc_img

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]):
                z_loc, z_scale = self.encoder.forward(x)
                pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))

    torch.manual_seed(0)
    v, x = VAE(), binary(25, 6)

    def truth():
        z, log_w = grid(2)
        return (bernoulli(x.double()[:, None], doubled(v.decoder, z)).sum(-1) + log_w).logsumexp(1)

    return Example(v.model, v.guide, (x,), truth, (v,), latent="latent")


class SSVAE(nn.Module):
    """examples/vae/ss_vae_M2.py: a plate without a size, y observed or not."""

    classes = 3

    def __init__(self):
        super().__init__()
        self.encoder_y = mlp(6, 8, self.classes, last=nn.Softmax(-1))
        self.encoder_z = Gaussian(6 + self.classes, 8, 2)
        self.decoder = mlp(2 + self.classes, 8, 6, last=nn.Sigmoid())

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        batch_size = xs.size(0)
        with pyro.plate("data"):
            zs = pyro.sample("z", dist.Normal(xs.new_zeros(batch_size, 2), xs.new_ones(batch_size, 2)).to_event(1))
            alpha = xs.new_ones(batch_size, self.classes) / self.classes
            ys = pyro.sample("y", dist.OneHotCategorical(alpha), obs=ys)
            loc = self.decoder(_wide(zs, ys))
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs)))
            loc, scale = self.encoder_z(_wide(xs, ys))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def _wide(*parts):
    """Concatenated, each broadcast to the leading dimensions of all: an enumerated label has more."""
    shape = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*shape, p.shape[-1]) for p in parts], -1)


def _ss_truth(v, x, y=None):
    z, log_w = grid(2)
    by_label = []
    for label in range(v.classes):
        one = one_hot(torch.full((len(z),), label), v.classes).double()
        log_px = bernoulli(x.double()[:, None], doubled(v.decoder, torch.cat([z, one], -1))).sum(-1)
        by_label.append((log_px + log_w).logsumexp(1) - math.log(v.classes))
    joint = torch.stack(by_label, 1)
    return joint.logsumexp(1) if y is None else (joint * y).sum(1)


@example
def ss_vae_m2_labelled():
    torch.manual_seed(1)
    v, x = SSVAE(), binary(25, 6, 1)
    y = one_hot(torch.arange(25) % 3, 3).float()
    return Example(v.model, v.guide, (x, y), lambda: _ss_truth(v, x, y), (v,))


@example
def ss_vae_m2_unlabelled():
    torch.manual_seed(2)
    v, x = SSVAE(), binary(25, 6, 2)
    enumerating = partial(TraceEnum_ELBO, max_plate_nesting=1)
    return Example(
        v.model, config_enumerate(v.guide, "parallel", expand=True), (x,), lambda: _ss_truth(v, x), (v,), enumerating
    )


@example
def cvae():
    """examples/cvae: model(xs, ys), where what is not known of xs is -1, and only that is observed of ys."""

    class CVAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.baseline = mlp(6, 8, 6, last=nn.Sigmoid())
            self.prior_net, self.recognition_net = Gaussian(12, 8, 2), Gaussian(12, 8, 2)
            self.generation_net = mlp(2, 8, 6, last=nn.Sigmoid())

        def model(self, xs, ys=None):
            pyro.module("generation_net", self)
            batch_size = xs.shape[0]
            with pyro.plate("data"):
                with torch.no_grad():
                    y_hat = self.baseline(xs).view(xs.shape)
                prior_loc, prior_scale = self.prior_net(xs, y_hat)
                zs = pyro.sample("z", dist.Normal(prior_loc, prior_scale).to_event(1))
                loc = self.generation_net(zs)
                if ys is not None:
                    mask_loc = loc[(xs == -1).view(-1, 6)].view(batch_size, -1)
                    mask_ys = ys[xs == -1].view(batch_size, -1)
                    pyro.sample("y", dist.Bernoulli(mask_loc, validate_args=False).to_event(1), obs=mask_ys)
                else:
                    pyro.deterministic("y", loc.detach())
                return loc

        def guide(self, xs, ys=None):
            with pyro.plate("data"):
                if ys is None:
                    y_hat = self.baseline(xs).view(xs.shape)
                    loc, scale = self.prior_net(xs, y_hat)
                else:
                    loc, scale = self.recognition_net(xs, ys)
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    torch.manual_seed(3)
    v, y = CVAE(), binary(20, 6, 3)
    x = y.clone()
    x[:, 3:] = -1

    def truth():
        e, log_w = grid(2)
        loc, scale = doubled(v.prior_net, x, doubled(v.baseline, x))
        z = loc[:, None] + scale[:, None] * e
        return (bernoulli(y.double()[:, None, 3:], doubled(v.generation_net, z)[..., 3:]).sum(-1) + log_w).logsumexp(1)

    return Example(v.model, v.guide, (x, y), truth, (v,))


@example
def dmm():
    """examples/dmm: a chain of latents under masks of the sequences' lengths, scaled for annealing."""
    steps, size = 3, 4

    class DMM(nn.Module):
        def __init__(self):
            super().__init__()
            self.emitter, self.trans = mlp(1, 6, size, last=nn.Sigmoid()), Gaussian(1, 6, 1)
            self.combiner = Gaussian(1 + 5, 6, 1)
            self.rnn = nn.GRU(size, 5, batch_first=True)
            self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

        def model(self, x, mask):
            pyro.module("dmm", self)
            z_prev = self.z_0.expand(x.size(0), 1)
            with pyro.plate("z_minibatch", len(x)):
                for t in pyro.markov(range(1, steps + 1)):
                    z_loc, z_scale = self.trans(z_prev)
                    with poutine.scale(scale=1.0):
                        fn = dist.Normal(z_loc, z_scale).mask(mask[:, t - 1 : t]).to_event(1)
                        z_t = pyro.sample(f"z_{t}", fn)
                    probs = dist.Bernoulli(self.emitter(z_t)).mask(mask[:, t - 1 : t]).to_event(1)
                    pyro.sample(f"obs_x_{t}", probs, obs=x[:, t - 1, :])
                    z_prev = z_t

        def guide(self, x, mask):
            pyro.module("dmm", self)
            hidden = self.rnn(x.flip(1))[0].flip(1)
            z_prev = self.z_q_0.expand(x.size(0), 1)
            with pyro.plate("z_minibatch", len(x)):
                for t in pyro.markov(range(1, steps + 1)):
                    loc, scale = self.combiner(_wide(z_prev, hidden[:, t - 1]))
                    with poutine.scale(scale=1.0):
                        fn = dist.Normal(loc, scale).mask(mask[:, t - 1 : t]).to_event(1)
                        z_prev = pyro.sample(f"z_{t}", fn)

    def _wide(z, h):
        return torch.cat([z, h.expand(*z.shape[:-1], h.shape[-1])], -1)

    torch.manual_seed(4)
    v, x = DMM(), binary(20, steps * size, 4).reshape(20, steps, size)
    lengths = torch.arange(20) % steps + 1
    mask = (torch.arange(steps) < lengths[:, None]).float()

    def truth():
        e, _ = grid(1, 8, 401)
        line, dz = e[:, 0], math.log(float(e[1, 0] - e[0, 0]))
        loc, scale = doubled(v.trans, line[:, None])
        move = normal(line[None], loc, scale) + dz  # from, to
        loc, scale = doubled(v.trans, v.z_0.detach()[None])
        alpha = (normal(line, loc[0], scale[0]) + dz).expand(len(x), -1)
        emission = doubled(v.emitter, line[:, None])
        for t in range(steps):
            term = bernoulli(x[:, t].double()[:, None], emission).sum(-1)
            alpha = alpha + term * mask[:, t : t + 1]
            if t < steps - 1:
                moved = (alpha[:, :, None] + move).logsumexp(1)
                alpha = torch.where(mask[:, t + 1 : t + 2] > 0, moved, alpha)
        return alpha.logsumexp(1)

    return Example(v.model, v.guide, (x, mask), truth, (v,), latent="z_1")


@example
def scanvi():
    """examples/scanvi: y observed in the guide by a factor, the classifier's loss; two levels of latents."""
    classes, genes, alpha = 3, 4, 0.5

    class SCANVI(nn.Module):
        def __init__(self):
            super().__init__()
            self.z2_decoder, self.x_decoder = Gaussian(1 + classes, 6, 1), mlp(1, 6, genes)
            self.z2l_encoder, self.z1_encoder = Gaussian(genes, 6, 2), Gaussian(1 + classes, 6, 1)
            self.classifier, self.inverse_dispersion = mlp(1, 6, classes), nn.Parameter(torch.ones(genes))
            self.register_buffer("l_loc", torch.tensor(2.0))

        def model(self, x, y=None):
            pyro.module("scanvi", self)
            theta = self.inverse_dispersion.exp()
            with pyro.plate("batch", len(x)), poutine.scale(scale=1.0):
                z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(1)).to_event(1))
                y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(classes)), obs=y)
                z2_loc, z2_scale = self.z2_decoder(z1, y.expand(*z1.shape[:-1], classes))
                z2 = pyro.sample("z2", dist.Normal(z2_loc, z2_scale).to_event(1))
                lib = pyro.sample("l", dist.LogNormal(self.l_loc, 0.4 * x.new_ones(1)).to_event(1))
                nb_logits = (lib * softmax(self.x_decoder(z2), -1) + 1e-6).log() - (theta + 1e-6).log()
                pyro.sample("x", dist.NegativeBinomial(theta, logits=nb_logits).to_event(1), obs=x)

        def guide(self, x, y=None):
            pyro.module("scanvi", self)
            with pyro.plate("batch", len(x)), poutine.scale(scale=1.0):
                loc, scale = self.z2l_encoder(torch.log(1 + x))
                pyro.sample("l", dist.LogNormal(self.l_loc + 0.1 * loc[..., 1:], 0.5 * scale[..., 1:]).to_event(1))
                z2 = pyro.sample("z2", dist.Normal(loc[..., :1], scale[..., :1]).to_event(1))
                y_dist = dist.OneHotCategorical(logits=self.classifier(z2))
                classification_loss = y_dist.log_prob(y)
                pyro.factor("classification_loss", -alpha * classification_loss, has_rsample=False)
                z1_loc, z1_scale = self.z1_encoder(z2, y.expand(*z2.shape[:-1], classes))
                pyro.sample("z1", dist.Normal(z1_loc, z1_scale).to_event(1))

    torch.manual_seed(5)
    v = SCANVI()
    y = one_hot(torch.arange(18) % classes, classes).float()
    x = torch.poisson(4 * torch.rand(18, genes))

    def truth():
        z1, log_w = grid(1)
        z2 = torch.linspace(-9, 9, 181, dtype=torch.double)
        theta = v.inverse_dispersion.detach().exp().double()
        share = doubled(v.x_decoder, z2[:, None]).softmax(-1)
        size = (2.0 + 0.4 * z1[:, 0]).exp()
        mean = size[:, None, None] * share + 1e-6  # [l, z2, genes]
        logits = mean.log() - (theta + 1e-6).log()
        found = []
        for n in range(len(x)):
            one = y[n].double().expand(len(z1), -1)
            loc, scale = doubled(v.z2_decoder, z1, one)
            prior = (log_w[:, None] + normal(z2, loc, scale)).logsumexp(0) + math.log(float(z2[1] - z2[0]))
            counts = x[n].double()
            like = (
                theta * nn.functional.logsigmoid(-logits) + counts * nn.functional.logsigmoid(logits)
                + torch.lgamma(theta + counts) - torch.lgamma(1 + counts) - torch.lgamma(theta)
            ).sum(-1)  # fmt: skip
            found.append((like + log_w[:, None] + prior).flatten().logsumexp(0) - math.log(classes))
        return torch.stack(found)

    return Example(v.model, v.guide, (x, y), truth, (v,), latent="z2")


def _cevae(outcome):
    torch.manual_seed(6)
    v = CEVAE(feature_dim=4, outcome_dist=outcome, latent_dim=2, hidden_dim=8, num_layers=2)
    z = torch.randn(30, 2)
    x = torch.randn(30, 4) + z @ torch.randn(2, 4)
    t = torch.bernoulli(torch.sigmoid(z[:, 0]))
    y = torch.bernoulli(torch.sigmoid(z[:, 1] + t)) if outcome == "bernoulli" else z[:, 1] + t

    def truth():
        z, log_w = grid(2, 6, 121)
        net = v.model
        loc, scale = doubled(net.x_nn, z)
        total = log_w + normal(x.double()[:, None], loc, scale).sum(-1)
        total = total + bernoulli(t.double()[:, None], torch.sigmoid(doubled(net.t_nn, z)[0]))
        for label, head in ((0, net.y0_nn), (1, net.y1_nn)):
            params = doubled(head, z)
            if outcome == "bernoulli":
                term = bernoulli(y.double()[:, None], torch.sigmoid(params[0]))
            else:
                term = normal(y.double()[:, None], *params)
            total = torch.where((t == label)[:, None], total + term, total)
        return total.logsumexp(1)

    return v, x, t, y, truth


@example
def cevae():
    """pyro.contrib.cevae as it is: t and y are observed in the guide, marked auxiliary."""
    v, x, t, y, truth = _cevae("bernoulli")
    return Example(v.model, v.guide, (x, t, y), truth, (v,))


@example
def cevae_normal_outcome():
    v, x, t, y, truth = _cevae("normal")
    return Example(v.model, v.guide, (x, t, y), truth, (v,))


@example
def cevae_with_its_own_objective():
    """TraceCausalEffect_ELBO adds log Q(t | x) and log Q(y | t, x): its loss is no bound on log P(x, t, y)."""
    v, x, t, y, truth = _cevae("bernoulli")
    return Example(v.model, v.guide, (x, t, y), truth, (v,), TraceCausalEffect_ELBO, bounded=False)


@example
def prodlda():
    """The ProdLDA tutorial: Multinomial with a total of the batch, BatchNorm in the networks."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.beta, self.bn = nn.Linear(2, 6, bias=False), nn.BatchNorm1d(6, affine=False)
            self.drop = nn.Dropout(0.2)

        def forward(self, inputs):
            return softmax(self.bn(self.beta(self.drop(inputs))), dim=1)

    class ProdLDA(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = Gaussian(6, 8, 2), Decoder()

        def model(self, docs):
            pyro.module("decoder", self.decoder)
            with pyro.plate("documents", docs.shape[0]):
                logtheta_loc, logtheta_scale = docs.new_zeros((docs.shape[0], 2)), docs.new_ones((docs.shape[0], 2))
                logtheta = pyro.sample("logtheta", dist.Normal(logtheta_loc, logtheta_scale).to_event(1))
                theta = softmax(logtheta, -1)
                count_param = self.decoder(theta)
                total_count = int(docs.sum(-1).max())
                pyro.sample("obs", dist.Multinomial(total_count, count_param), obs=docs)

        def guide(self, docs):
            pyro.module("encoder", self.encoder)
            with pyro.plate("documents", docs.shape[0]):
                loc, scale = self.encoder(torch.log1p(docs))
                pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))

    torch.manual_seed(7)
    v, docs = ProdLDA(), torch.poisson(3 * torch.rand(24, 6))

    def truth():
        z, log_w = grid(2)
        p = doubled(v.decoder, softmax(z, -1))
        counts = docs.double()
        const = torch.lgamma(counts.sum(1) + 1) - torch.lgamma(counts + 1).sum(1)
        return (counts @ p.log().T + log_w).logsumexp(1) + const

    return Example(v.model, v.guide, (docs,), truth, (v,), bounded=False, latent="logtheta")


def _lda_data():
    torch.manual_seed(8)
    return torch.randint(0, 5, (20, 4))


@example
def lda():
    """examples/lda.py as it is: topics of all documents together are latent, doc_topics a point. No log P of one."""
    x = _lda_data()

    class Predictor(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = mlp(5, 6, 2, last=nn.Softmax(-1))

    predictor = Predictor()

    def model(data):
        with pyro.plate("topics", 2):
            topic_weights = pyro.sample("topic_weights", dist.Gamma(1.0 / 2, 1.0))
            topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(5) / 5))
        with pyro.plate("documents", len(data)):
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(topic_weights))
            with pyro.plate("words", 4):
                word_topics = pyro.sample("word_topics", dist.Categorical(doc_topics), infer={"enumerate": "parallel"})
                pyro.sample("doc_words", dist.Categorical(topic_words[word_topics]), obs=data.T)

    def guide(data):
        positive = dist.constraints.positive
        weights = pyro.param("topic_weights_posterior", lambda: torch.ones(2), constraint=positive)
        words = pyro.param(
            "topic_words_posterior", lambda: torch.ones(2, 5), constraint=dist.constraints.greater_than(0.5)
        )
        pyro.module("predictor", predictor)
        with pyro.plate("topics", 2):
            pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(words))
        with pyro.plate("documents", len(data)):
            counts = one_hot(data, 5).float().sum(-2)
            pyro.sample("doc_topics", dist.Delta(predictor.net(counts), event_dim=1))

    return Example(
        model, guide, (x,), None, objective=partial(TraceEnum_ELBO, max_plate_nesting=2), latent="doc_topics"
    )


@example
def lda_with_topics_as_parameters():
    """Documents x words, the words' topics summed out, and doc_topics with a density."""
    x = _lda_data()

    class LDA(nn.Module):
        def __init__(self):
            super().__init__()
            self.topics, self.net = nn.Parameter(torch.randn(2, 5)), mlp(5, 6, 2, last=nn.Softplus())

        def model(self, data):
            pyro.module("lda", self)
            topic_words = self.topics.softmax(-1)
            with pyro.plate("documents", len(data)):
                doc_topics = pyro.sample("doc_topics", dist.Dirichlet(torch.tensor([1.4, 1.7])))
                with pyro.plate("words", 4):
                    topics = dist.Categorical(doc_topics)
                    word_topics = pyro.sample("word_topics", topics, infer={"enumerate": "parallel"})
                    pyro.sample("doc_words", dist.Categorical(topic_words[word_topics]), obs=data.T)

        def guide(self, data):
            with pyro.plate("documents", len(data)):
                counts = one_hot(data, 5).float().sum(-2)
                pyro.sample("doc_topics", dist.Dirichlet(1 + self.net(counts)))

    v = LDA()

    def truth():
        words = v.topics.detach().double().softmax(-1)
        t, _ = grid(1, 18, 2001)
        p = torch.sigmoid(t[:, 0])
        a, b = torch.tensor(1.4, dtype=torch.double), torch.tensor(1.7, dtype=torch.double)
        const = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        log_w = const + a * p.log() + b * torch.log1p(-p) + math.log(float(t[1, 0] - t[0, 0]))
        by_word = (p[:, None] * words[0] + (1 - p[:, None]) * words[1]).log()  # [G, 5]
        return (by_word[:, x].sum(-1).T + log_w).logsumexp(1)

    enumerating = partial(TraceEnum_ELBO, max_plate_nesting=2)
    return Example(v.model, v.guide, (x,), truth, (v,), enumerating, latent="doc_topics")


def _flow(make):
    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder, self.encoder, self.flow = nn.Linear(2, 3), nn.Linear(3, 4), make()

        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 0.8).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            pyro.module("flow", self.flow)
            with pyro.plate("data", len(x)):
                loc, raw = self.encoder(x).chunk(2, -1)
                flow = self.flow.condition(x) if hasattr(self.flow, "condition") else self.flow
                base = dist.Normal(loc, 0.4 + softplus(raw)).to_event(1)
                pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    torch.manual_seed(9)
    v, x = Flow(), torch.randn(25, 3)

    def truth():
        w, b = v.decoder.weight.detach().double(), v.decoder.bias.detach().double()
        covariance = w @ w.T + 0.64 * torch.eye(3, dtype=torch.double)
        return torch.distributions.MultivariateNormal(b, covariance).log_prob(x.double())

    return Example(v.model, v.guide, (x,), truth, (v,))


for _name, _make in {
    "planar flow": lambda: planar(2),
    "conditional planar flow": lambda: conditional_planar(2, 3, [8]),
    "conditional radial flow": lambda: conditional_radial(2, 3, [8]),
    "inverse autoregressive flow": lambda: conditional_affine_autoregressive(2, 3, [8]),
    "spline flow": lambda: conditional_spline(2, 3, [8], count_bins=4, bound=5.0),
}.items():
    EXAMPLES[_name] = partial(_flow, _make)


@example
def module_with_random_weights():
    """The Bayesian regression tutorial: PyroSample weights, of all data together. No log P of one datum."""

    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

        def forward(self, x, y=None):
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", x.shape[0]):
                return pyro.sample("obs", dist.Normal(mean, 0.5), obs=y)

    torch.manual_seed(10)
    model, x = Regression(), torch.randn(30, 2)
    y = x @ torch.tensor([1.0, -0.5]) + 0.5 * torch.randn(30)
    return Example(model, AutoNormal(model), (x, y), None, latent="linear.weight")


@example
def pyro_modules():
    """A VAE of PyroModules in PyroModules, its plate in the model only through the data."""

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = PyroModule[nn.Sequential](PyroModule[nn.Linear](1, 6), nn.Sigmoid())

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
                return pyro.sample("x", dist.Bernoulli(self.decoder(z)).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = Gaussian(6, 8, 1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                return pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))

    torch.manual_seed(11)
    model, guide, x = Model(), Guide(), binary(25, 6, 11)

    def truth():
        z, log_w = grid(1)
        return (bernoulli(x.double()[:, None], doubled(model.decoder, z)).sum(-1) + log_w).logsumexp(1)

    return Example(model, guide, (x,), truth, (model, guide))


@example
def air():
    """examples/air: up to two objects, each there or not (Bernoulli), where it is masked by whether it is there."""
    steps, pixels, prior_p = 2, 5, 0.6

    class AIR(nn.Module):
        def __init__(self):
            super().__init__()
            self.decode, self.predict = mlp(1, 6, pixels), mlp(pixels + 2, 8, 3)

        def prior_step(self, t, n, z_pres, x):
            z_pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(prior_p * z_pres).to_event(1))
            z_what = pyro.sample(f"z_what_{t}", dist.Normal(z_pres.new_zeros(n, 1), 1.0).mask(z_pres).to_event(1))
            return z_pres, x + z_pres * self.decode(z_what)

        def model(self, data):
            pyro.module("decode", self.decode)
            n = data.size(0)
            with pyro.plate("data", n):
                x, z_pres = data.new_zeros(n, pixels), data.new_ones(n, 1)
                for t in range(steps):
                    z_pres, x = self.prior_step(t, n, z_pres, x)
                pyro.sample("obs", dist.Normal(x, 0.7).to_event(1), obs=data)

        def guide(self, data):
            pyro.module("predict", self.predict)
            n = data.size(0)
            with pyro.plate("data", n):
                z_pres, z_what = data.new_ones(n, 1), data.new_zeros(n, 1)
                for t in range(steps):
                    seen = data.expand(*z_what.shape[:-1], pixels)
                    p, loc, raw = self.predict(torch.cat([seen, z_pres.expand_as(z_what), z_what], -1)).chunk(3, -1)
                    p = 0.1 + 0.8 * torch.sigmoid(p)
                    z_pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(p * z_pres).to_event(1))
                    fn = dist.Normal(loc, 0.5 + softplus(raw)).mask(z_pres).to_event(1)
                    z_what = pyro.sample(f"z_what_{t}", fn)

    torch.manual_seed(12)
    v, x = AIR(), torch.randn(20, pixels)

    def truth():
        z, log_w = grid(1, 7, 121)
        shape = doubled(v.decode, z)
        data = x.double()
        none = normal(data, torch.zeros(()), 0.7).sum(-1) + math.log(1 - prior_p)
        one = (normal(data[:, None], shape, 0.7).sum(-1) + log_w).logsumexp(1) + math.log(prior_p * (1 - prior_p))
        both = (shape[:, None] + shape[None]).flatten(0, 1)
        weights = (log_w[:, None] + log_w[None]).flatten()
        two = (normal(data[:, None], both, 0.7).sum(-1) + weights).logsumexp(1) + 2 * math.log(prior_p)
        return torch.stack([none, one, two]).logsumexp(0)

    return Example(v.model, v.guide, (x,), truth, (v,), latent="z_what_0")
