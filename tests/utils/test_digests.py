"""Digests are of numbers, however they lie in memory."""

import torch

from ppl_vae.utils.digests import digest_of


def test_strides_are_no_part_of_a_digest():
    one = torch.zeros(()).expand(1, 1).clone()  # a single number, with strides of 0
    assert digest_of({"a": one}) == digest_of({"a": torch.zeros(1, 1)})
    x = torch.randn(3, 4)
    assert digest_of({"a": x.T}) == digest_of({"a": x.T.contiguous()}) != digest_of({"a": x})
