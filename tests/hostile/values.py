"""Values that a person may pass by mistake, of each type that a public call takes: a name, and a maker of a fresh one."""
# ruff: noqa: E501, PLW0108, PLC3002

import datetime
import decimal
import fractions
import io

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

DIM = 4
X = (torch.rand(12, DIM, generator=torch.Generator().manual_seed(3)) > 0.5).float()


class Lies(Dataset):
    """Four good data, and a length that is not theirs."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return X[:4][index]


class Raises(Dataset):
    """A data set whose third datum cannot be read."""

    def __init__(self, problem):
        self.problem = problem

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 2:
            raise self.problem
        return X[index]


class Gives(Dataset):
    """A data set of what is given."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class NoLength(Dataset):
    def __getitem__(self, index):
        return X[index]


class LengthRaises(Gives):
    def __len__(self):
        raise OSError("the disk is gone")


class Stream(IterableDataset):
    """A stream that is made anew by a function at each pass."""

    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return self.make()


class OtherEachTime(IterableDataset):
    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(X[: 3 + self.passes])


class BadArray:
    """Something that says it is an array, and is none."""

    def __array__(self, dtype=None, copy=None):
        raise MemoryError("no room for this array")


def fails_late():
    yield from X[:3]
    raise KeyError("row")


def jagged():
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


def quantized():
    return torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)


def masked():
    return np.ma.masked_array(X.numpy(), mask=X.numpy() > 0.5)


def recursive():
    found = []
    found.append(found)
    return found


def of(*names_and_makers):
    return dict(zip(names_and_makers[::2], names_and_makers[1::2], strict=True))


NUMBERS = of(
    "0", lambda: 0,
    "-1", lambda: -1,
    "1.5", lambda: 1.5,
    "True", lambda: True,
    "'3'", lambda: "3",
    "nan", lambda: float("nan"),
    "inf", lambda: float("inf"),
    "-inf", lambda: float("-inf"),
    "1e300", lambda: 1e300,
    "1e-300", lambda: 1e-300,
    "10**30", lambda: 10**30,
    "2**63", lambda: 2**63,
    "-2**70", lambda: -(2**70),
    "10**400", lambda: 10**400,
    "np.int64(2)", lambda: np.int64(2),
    "np.int8(3)", lambda: np.int8(3),
    "np.uint64(2)", lambda: np.uint64(2),
    "np.float32(2)", lambda: np.float32(2),
    "np.float32(.5)", lambda: np.float32(0.5),
    "np.float16(nan)", lambda: np.float16("nan"),
    "np.longdouble(2)", lambda: np.longdouble(2),
    "np.bool_(True)", lambda: np.bool_(True),
    "np.array(2)", lambda: np.array(2),
    "np.array([2])", lambda: np.array([2]),
    "np.timedelta64", lambda: np.timedelta64(3, "s"),
    "torch.tensor(2)", lambda: torch.tensor(2),
    "torch.tensor(.5)", lambda: torch.tensor(0.5),
    "torch.tensor([2, 3])", lambda: torch.tensor([2, 3]),
    "torch.tensor(2, meta)", lambda: torch.tensor(2, device="meta"),
    "torch.tensor(True)", lambda: torch.tensor(True),
    "2j", lambda: 2j,
    "Decimal('2')", lambda: decimal.Decimal("2"),
    "Decimal('NaN')", lambda: decimal.Decimal("NaN"),
    "Fraction(1, 2)", lambda: fractions.Fraction(1, 2),
    "Fraction(4, 2)", lambda: fractions.Fraction(4, 2),
)  # fmt: skip

ODDITIES = of(
    "None", lambda: None,
    "object()", object,
    "[]", list,
    "()", tuple,
    "{}", dict,
    "set()", set,
    "''", str,
    "b'x'", lambda: b"x",
    "'auto '", lambda: "auto ",
    "a word of 10,000 letters", lambda: "a" * 10_000,
    "lines", lambda: "one\ntwo\nthree",
    "[1, [2, 3]]", lambda: [1, [2, 3]],
    "recursive list", recursive,
    "{'x': 1}", lambda: {"x": 1},
    "range(3)", lambda: range(3),
    "int", lambda: int,
    "a lambda", lambda: lambda *a, **k: None,
    "a lambda that raises", lambda: lambda *a, **k: 1 / 0,
    "datetime", lambda: datetime.datetime(2026, 1, 1),
    "a file", io.BytesIO,
    "pd.NA", lambda: pd.NA,
    "Ellipsis", lambda: ...,
    "NotImplemented", lambda: NotImplemented,
    "a module", lambda: torch,
    "an nn.Module", lambda: torch.nn.Linear(2, 2),
    "torch.float32", lambda: torch.float32,
    "slice", lambda: slice(None),
    "a generator", lambda: (i for i in range(3)),
)  # fmt: skip

DATA = of(
    "ragged list", lambda: [[1, 2], [3]],
    "ragged deep list", lambda: [[[1, 2]], [[3], [4]]],
    "list of words", lambda: ["a", "b"],
    "list of None", lambda: [None, None],
    "list of dicts", lambda: [{"x": X[0]}, {"x": X[1]}],
    "tuple of other lengths", lambda: (X, torch.zeros(5)),
    "list of tensors of other shapes", lambda: [torch.zeros(4), torch.zeros(5)],
    "sparse COO", lambda: X.to_sparse(),
    "sparse CSR", lambda: X.to_sparse_csr(),
    "sparse CSC", lambda: X.to_sparse_csc(),
    "sparse BSR", lambda: X.to_sparse_bsr((2, 2)),
    "sparse of ints", lambda: X.long().to_sparse(),
    "sparse, huge", lambda: torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (10**9, 4)),
    "sparse, invalid", lambda: torch.sparse_coo_tensor(torch.tensor([[99], [0]]), torch.ones(1), (12, 4), check_invariants=False),
    "sparse hybrid", lambda: torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2, 4), (12, 4)),
    "scipy CSR", lambda: scipy.sparse.csr_matrix(X.numpy()),
    "scipy COO array", lambda: scipy.sparse.coo_array(X.numpy()),
    "scipy DOK, complex", lambda: scipy.sparse.dok_matrix((12, 4), dtype=complex),
    "scipy, huge", lambda: scipy.sparse.csr_matrix((10**7, 10**5)),
    "nested tensor", jagged,
    "nested, jagged layout", lambda: torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)], layout=torch.jagged),
    "quantized", quantized,
    "meta tensor", lambda: torch.empty(12, 4, device="meta"),
    "meta y", lambda: (X, torch.empty(12, device="meta")),
    "complex", lambda: X.to(torch.complex64),
    "bool tensor", lambda: X.bool(),
    "float8", lambda: X.to(torch.float8_e4m3fn),
    "half", lambda: X.half(),
    "bfloat16", lambda: X.bfloat16(),
    "uint16 tensor", lambda: X.to(torch.uint16),
    "requires_grad", lambda: X.clone().requires_grad_(),
    "not a leaf", lambda: X.clone().requires_grad_() * 1,
    "inference tensor", lambda: torch.inference_mode()(lambda: X.clone())(),
    "conjugate view", lambda: X.to(torch.complex64).conj(),
    "negative view", lambda: torch._neg_view(X),
    "expanded", lambda: X[:1].expand(12, 4),
    "expanded, huge", lambda: torch.zeros(1, 4).expand(10**12, 4),
    "0-d", lambda: torch.tensor(1.0),
    "0-d array", lambda: np.array(1.0),
    "no data", lambda: X[:0],
    "no numbers", lambda: torch.zeros(12, 0),
    "1-d", lambda: X[:, 0],
    "3-d", lambda: X[:, None],
    "9-d", lambda: X.reshape(12, 1, 1, 1, 1, 1, 1, 1, 4),
    "5 columns", lambda: torch.zeros(12, 5),
    "all NaN", lambda: torch.full((12, 4), float("nan")),
    "infinity", lambda: torch.full((12, 4), float("inf")),
    "1e30", lambda: torch.full((12, 4), 1e30),
    "one datum", lambda: X[:1],
    "x and two more", lambda: (X, X, X),
    "masked array", masked,
    "masked all", lambda: np.ma.masked_all((12, 4)),
    "masked ints", lambda: np.ma.masked_equal(X.long().numpy(), 1),
    "structured array", lambda: np.zeros(12, dtype=[("a", float), ("b", int)]),
    "datetimes", lambda: np.zeros((12, 4), dtype="datetime64[s]"),
    "words", lambda: np.array([["a"] * 4] * 12),
    "words that are numbers", lambda: np.array([["1"] * 4] * 12),
    "bytes", lambda: np.array([[b"1"] * 4] * 12),
    "object array", lambda: np.array([[None] * 4] * 12, dtype=object),
    "object array of numbers", lambda: X.numpy().astype(object),
    "big-endian", lambda: X.numpy().astype(">f4"),
    "negative strides", lambda: X.numpy()[::-1, ::-1],
    "read-only", lambda: np.broadcast_to(X.numpy()[0], (12, 4)),
    "longdouble", lambda: X.numpy().astype(np.longdouble),
    "float16 array", lambda: X.numpy().astype(np.float16),
    "void", lambda: np.zeros((12, 4), dtype="V4"),
    "np.matrix", lambda: np.matrix(X.numpy()),
    "DataFrame", lambda: pd.DataFrame(X.numpy()),
    "DataFrame with words", lambda: pd.DataFrame(X.numpy()).assign(name="a"),
    "DataFrame of categories", lambda: pd.DataFrame(X.numpy()).astype("category"),
    "DataFrame of dates", lambda: pd.DataFrame({"a": pd.date_range("2020", periods=12)}),
    "DataFrame, nullable", lambda: pd.DataFrame(X.numpy()).astype("Int64"),
    "DataFrame, empty", pd.DataFrame,
    "DataFrame, sparse", lambda: pd.DataFrame.sparse.from_spmatrix(scipy.sparse.csr_matrix(X.numpy())),
    "DataFrame, two levels", lambda: pd.concat({"a": pd.DataFrame(X.numpy()), "b": pd.DataFrame(X.numpy())}, axis=1),
    "Series", lambda: pd.Series(X[:, 0].numpy()),
    "Series of lists", lambda: pd.Series([[1, 2]] * 12),
    "Index", lambda: pd.Index([1, 2, 3]),
    "bad __array__", BadArray,
    "dict x", lambda: {"x": X},
    "dict of others", lambda: {"image": X},
    "dict of numbers", lambda: {0: X},
    "generator of batches", lambda: (X[i : i + 2] for i in range(0, 12, 2)),
    "iterator", lambda: iter([X]),
    "set", lambda: {1.0, 2.0},
    "a path", lambda: "data.npy",
    "a data set's name", lambda: "digits",
    "memoryview", lambda: memoryview(X.numpy()),
    "bytearray", lambda: bytearray(8),
    "a length too long", lambda: Lies(9),
    "a length too short", lambda: Lies(2),
    "a length of 0", lambda: Lies(0),
    "a negative length", lambda: Lies(-3),
    "a length of 2.5", lambda: Lies(2.5),
    "a length of None", lambda: Lies(None),
    "a huge length", lambda: Lies(2**62),
    "a length that raises", lambda: LengthRaises([X[0]]),
    "an item that raises", lambda: Raises(ValueError("a broken row\nwith a second line")),
    "an item that raises OSError", lambda: Raises(OSError("no such picture")),
    "an item that raises KeyError", lambda: Raises(KeyError("image")),
    "an item that raises StopIteration", lambda: Raises(StopIteration()),
    "an item that raises AssertionError", lambda: Raises(AssertionError()),
    "items of None", lambda: Gives([None] * 4),
    "items of words", lambda: Gives(["a"] * 4),
    "items of other shapes", lambda: Gives([X[0], X[1, :2], X[2]]),
    "items of other lengths", lambda: Gives([(X[0], 1), (X[1],), (X[2], 1)]),
    "items of other kinds", lambda: Gives([X[0], (X[1], 1), X[2]]),
    "items of floats", lambda: Gives([1.0, 2.0, 3.0]),
    "items of dicts", lambda: Gives([{"x": X[0]}, {"x": X[1]}]),
    "items of other dicts", lambda: Gives([{"x": X[0]}, {"z": X[1]}]),
    "items of sparse", lambda: Gives([x.to_sparse() for x in X]),
    "items of meta", lambda: Gives(list(torch.empty(12, 4, device="meta"))),
    "items of empty tuples", lambda: Gives([(), ()]),
    "no length", NoLength,
    "TensorDataset", lambda: TensorDataset(X),
    "TensorDataset of nothing", TensorDataset,
    "Subset beyond", lambda: torch.utils.data.Subset(TensorDataset(X), [0, 99]),
    "ConcatDataset", lambda: torch.utils.data.ConcatDataset([TensorDataset(X), Gives([X[0]])]),
    "loader", lambda: DataLoader(X, 4),
    "loader, no batch_size", lambda: DataLoader(X, batch_size=None),
    "loader, ready batches", lambda: DataLoader(Gives([X[:4], X[4:8]]), batch_size=None),
    "loader, drop_last of all", lambda: DataLoader(X, 50, drop_last=True),
    "loader of nothing", lambda: DataLoader(X[:0], 4),
    "loader, sampler of nothing", lambda: DataLoader(X, 4, sampler=[]),
    "loader, sampler beyond", lambda: DataLoader(X, 4, sampler=[0, 99]),
    "loader, sampler of words", lambda: DataLoader(X, 4, sampler=["a", "b"]),
    "loader, empty batches", lambda: DataLoader(X, batch_sampler=[[0, 1], []]),
    "loader, collate raises", lambda: DataLoader(X, 4, collate_fn=lambda items: 1 / 0),
    "loader, collate None", lambda: DataLoader(X, 4, collate_fn=lambda items: None),
    "loader, collate words", lambda: DataLoader(X, 4, collate_fn=lambda items: "batch"),
    "loader, collate list", lambda: DataLoader(X, 4, collate_fn=list),
    "loader that shuffles", lambda: DataLoader(X, 4, shuffle=True),
    "loader of an item that raises", lambda: DataLoader(Raises(ValueError("a broken row")), 2),
    "loader of a lie", lambda: DataLoader(Lies(9), 2),
    "loader of other shapes", lambda: DataLoader(Gives([X[0], X[1, :2]]), 2),
    "loader of None", lambda: DataLoader(Gives([None] * 4), 2),
    "loader of other shapes by batch", lambda: DataLoader(Gives([X[0], X[1], X[2, :2], X[3, :2]]), 2),
    "loader of other kinds by batch", lambda: DataLoader(Gives([X[0], X[1], (X[2], X[2]), (X[3], X[3])]), 2),
    "loader of a length that raises", lambda: DataLoader(LengthRaises([X[0]]), 1),
    "stream", lambda: Stream(lambda: iter(X)),
    "stream of nothing", lambda: Stream(lambda: iter(())),
    "stream that fails", lambda: Stream(fails_late),
    "stream that is None", lambda: Stream(lambda: None),
    "stream once", lambda: (lambda it: Stream(lambda: it))(iter(X)),
    "stream of words", lambda: Stream(lambda: iter(["a", "b"])),
    "stream of other shapes", lambda: Stream(lambda: iter([X[0], X[1, :2]])),
    "stream, other each time", OtherEachTime,
    "loader of a stream that fails", lambda: DataLoader(Stream(fails_late), 2),
)  # fmt: skip

LABELS = of(
    "too few labels", lambda: torch.zeros(5).long(),
    "no labels", lambda: torch.zeros(0).long(),
    "labels from 1", lambda: torch.arange(12) % 3 + 1,
    "labels beyond", lambda: torch.full((12,), 99),
    "labels below", lambda: torch.full((12,), -7),
    "labels unknown", lambda: torch.full((12,), -1),
    "labels of floats", lambda: torch.full((12,), 0.5),
    "labels of NaN", lambda: torch.full((12,), float("nan")),
    "labels of bytes", lambda: (torch.arange(12) % 3).to(torch.uint8),
    "labels, one-hot", lambda: torch.eye(3)[torch.arange(12) % 3],
    "labels of words", lambda: ["cat"] * 12,
    "labels of bools", lambda: np.arange(12) % 2 == 0,
    "a label", lambda: 1,
    "a label beyond", lambda: 99,
    "label -1", lambda: -1,
    "labels, sparse", lambda: (torch.arange(12) % 3).to_sparse(),
    "labels, meta", lambda: torch.zeros(12, device="meta").long(),
    "labels, complex", lambda: torch.zeros(12, dtype=torch.complex64),
    "labels, ragged", lambda: [[1], [1, 2]],
    "labels, 2**63", lambda: [2**63] * 12,
    "labels, 10**30", lambda: [10**30] * 12,
    "labels of categories", lambda: pd.Categorical(["a", "b"] * 6),
    "labels, masked", lambda: np.ma.masked_equal(np.arange(12) % 3, 1),
)  # fmt: skip


class NoStep(torch.optim.Optimizer):
    """An optimizer without a step."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})


OPTIMIZERS = of(
    "LBFGS", lambda: torch.optim.LBFGS,
    "SparseAdam", lambda: torch.optim.SparseAdam,
    "'adam'", lambda: "adam",
    "an optimizer", lambda: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1),
    "returns None", lambda: lambda params, lr: None,
    "returns a word", lambda: lambda params, lr: "adam",
    "raises", lambda: lambda params, lr: 1 / 0,
    "takes no lr", lambda: lambda params: torch.optim.SGD(params, 0.1),
    "partial with wrong option", lambda: __import__("functools").partial(torch.optim.Adam, beta=1),
    "without a step", lambda: NoStep,
    "of other parameters", lambda: lambda params, lr: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr),
    "Optimizer", lambda: torch.optim.Optimizer,
    "ASGD", lambda: torch.optim.ASGD,
    "Adafactor", lambda: torch.optim.Adafactor,
    "Rprop", lambda: torch.optim.Rprop,
    "pyro Adam", lambda: __import__("pyro").optim.Adam({"lr": 0.1}),
    "a dict", lambda: {"lr": 0.1},
    "int", lambda: int,
)  # fmt: skip

SCHEDULES = of(
    "'linear'", lambda: "linear",
    "returns None", lambda: lambda optimizer, epochs: None,
    "returns a number", lambda: lambda optimizer, epochs: 0.1,
    "raises", lambda: lambda optimizer, epochs: 1 / 0,
    "takes one", lambda: lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer),
    "ReduceLROnPlateau", lambda: lambda optimizer, epochs: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
    "ReduceLROnPlateau itself", lambda: torch.optim.lr_scheduler.ReduceLROnPlateau,
    "OneCycleLR too short", lambda: lambda o, epochs: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=1),
    "of another optimizer", lambda: lambda optimizer, epochs: torch.optim.lr_scheduler.ConstantLR(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    ),
    "LambdaLR that raises", lambda: lambda o, epochs: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 1 / (1 - k)),
    "LambdaLR of NaN", lambda: lambda o, epochs: torch.optim.lr_scheduler.LambdaLR(o, lambda k: float("nan")),
    "a class", lambda: torch.optim.lr_scheduler.CosineAnnealingLR,
)  # fmt: skip
