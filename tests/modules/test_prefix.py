"""Runs with kept prefixes against runs in full: the same bits, and only what comes after the change is computed."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from asrcompress.modules.prefix import PrefixCache, copied, find_blocks


class Layer(nn.Module):
    """Counts its calls; gives a tuple, as Fairseq's layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(6, 6), 0

    def forward(self, x, mask=None, state=None):
        self.calls += 1
        return x + torch.relu(self.fc(x)), mask, None


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.layers, self.norm = (
            nn.Linear(5, 6),
            nn.ModuleList([Layer() for _ in range(3)]),
            nn.LayerNorm(6),
        )

    def forward(self, x):
        y = self.inlet(x)
        y *= 2.0  # in place: what was kept of inlet must not change with it
        mask = y > 0
        for layer in self.layers:
            y, mask, _ = layer(y, mask=mask)
        return {"out": [self.norm(y)], "mask": mask}


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList([Layer() for _ in range(2)]), nn.Linear(6, 4)

    def forward(self, encoded, state=None):
        y = encoded["out"][0]
        for layer in self.layers:
            y = layer(y, state=state)[0]
        return self.head(y)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = Encoder(), Decoder()
        self.spare = nn.Linear(6, 6)

    def forward(self, x):
        return self.decoder(self.encoder(x))

    def search(self, x):
        """As Fairseq's: forward called directly, once of the encoder and twice of the decoder."""
        encoded = self.encoder.forward(x)
        return self.decoder.forward(encoded, state={}) + self.decoder.forward(encoded, state={})


WEIGHTS = ["encoder.inlet", *(f"encoder.layers.{n}.fc" for n in range(3)), "encoder.norm", *(f"decoder.layers.{n}.fc" for n in range(2)),
           "decoder.head", "spare"]  # fmt: skip
BATCHES = [torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(n)) for n in range(3)]


@contextmanager
def changed(model, name):
    weight = model.get_submodule(name).weight
    kept = weight.detach().clone()
    weight.data.mul_(-0.7)
    yield
    weight.data.copy_(kept)


def run(cache, model, modules):
    """Both passes over all batches."""
    results = []
    with torch.no_grad():
        for number, x in enumerate(BATCHES):
            with cache.batch(number, modules):
                with cache.run("loss"):
                    results.append(model(x))
                with cache.run("search"):
                    results.append(model.search(x))
    return results


def in_full(model):
    with torch.no_grad():
        return [result for x in BATCHES for result in (model(x), model.search(x))]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_changed_run_is_bit_identical_to_a_full_one_and_the_next_is_not_touched_by_it(name: str) -> None:
    model = Model().eval()
    before = in_full(model)
    cache = PrefixCache(model)
    reference = run(cache, model, None)
    with changed(model, name):
        found, again = run(cache, model, [name]), run(cache, model, [name])
        cache.close()
        expected = in_full(model)
    assert all(map(torch.equal, found, expected)) and all(map(torch.equal, again, expected))
    assert all(map(torch.equal, reference, before)) and all(map(torch.equal, in_full(model), before))
    assert name == "spare" or not torch.equal(found[0], before[0])


def test_only_what_comes_after_the_first_change_is_computed() -> None:
    model = Model().eval()
    cache = PrefixCache(model)
    run(cache, model, None)
    encoder, decoder = list(model.encoder.layers), list(model.decoder.layers)
    for modules, expected in (
        (["encoder.layers.1.fc"], [0, 3, 3, 3 * 3, 3 * 3]),  # the search has its encoder from the loss
        (["decoder.layers.0.fc"], [0, 0, 0, 3 * 3, 3 * 3]),
        (["decoder.layers.1.fc", "encoder.layers.2.fc"], [0, 0, 3, 3 * 3, 3 * 3]),
        (["decoder.head"], [0, 0, 0, 3 * 2, 3 * 2]),  # the loss alone calls them once a batch
    ):
        for layer in (*encoder, *decoder):
            layer.calls = 0
        run(cache, model, modules)
        assert [layer.calls for layer in (*encoder, *decoder)] == expected, modules


def test_forwards_are_as_they_were_after_close() -> None:
    model = Model().eval()
    own = model.decoder.forward
    model.decoder.forward = own  # an attribute of the instance, as hooks leave it
    cache = PrefixCache(model)
    run(cache, model, None)
    cache.close()
    assert model.decoder.forward is own
    assert "forward" not in vars(model.encoder)
    assert cache.size_bytes == 0


def test_what_does_not_fit_runs_in_full_with_the_same_result() -> None:
    whole, model = Model().eval(), Model().eval()
    full, small = PrefixCache(whole), PrefixCache(model, limit_bytes=1500)
    run(full, whole, None)
    run(small, model, None)
    assert 0 < small.size_bytes <= 1500 < full.size_bytes
    for name in WEIGHTS:
        with changed(whole, name), changed(model, name):
            assert all(map(torch.equal, run(full, whole, [name]), run(small, model, [name])))


def test_a_recording_that_broke_off_is_not_used_and_recording_again_replaces() -> None:
    model = Model().eval()
    cache = PrefixCache(model)
    run(cache, model, None)
    size = cache.size_bytes
    run(cache, model, None)
    assert cache.size_bytes == size
    with pytest.raises(ValueError, match="broken"), cache.batch(0), cache.run("loss"), torch.no_grad():
        model(BATCHES[0])
        raise ValueError("broken")
    assert cache.size_bytes < size
    with changed(model, "decoder.head"):
        found = run(cache, model, ["decoder.head"])
        assert all(map(torch.equal, found, in_full(model)))


def test_a_block_that_is_handed_something_to_write_to_is_not_kept() -> None:
    class Writer(nn.Module):
        def forward(self, x, state):
            state["seen"] = state.get("seen", 0) + 1
            return x + 1

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = nn.ModuleList([Writer()]), nn.Linear(2, 2)

        def forward(self, x):
            state = {}
            y = self.head(self.layers[0](x, state))
            return y * state["seen"]

    model = Outer().eval()
    cache = PrefixCache(model)
    for modules in (None, ["head"]):
        with torch.no_grad(), cache.batch(0, modules), cache.run("loss"):
            model(torch.ones(2))


def test_a_block_that_changes_its_input_is_not_kept() -> None:
    class Adder(nn.Module):
        def forward(self, x):
            x += 1
            return x * 2

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = nn.ModuleList([Adder()]), nn.Linear(2, 2)

        def forward(self, x):
            y = x.clone()
            return self.head(self.layers[0](y) + y)

    model = Outer().eval()
    cache, results = PrefixCache(model), []
    for modules in (None, ["head"]):
        with torch.no_grad(), cache.batch(0, modules), cache.run("loss"):
            results.append(model(torch.ones(2)))
    assert torch.equal(*results)


def test_blocks_are_layers_and_modules_with_twins_outside_of_them_and_what_is_around() -> None:
    assert find_blocks(Model()) == [
        "decoder", "decoder.head", "decoder.layers", "decoder.layers.0", "decoder.layers.1", "encoder", "encoder.inlet",
        "encoder.layers", "encoder.layers.0", "encoder.layers.1", "encoder.layers.2", "spare",
    ]  # fmt: skip


def test_copies_have_the_layout_of_the_original_and_none_of_its_memory() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2)[1:, :, ::2]
    nested = copied({"a": [x, (None, 3)], "b": x.expand(2, *x.shape)})
    copy = nested["a"][0]
    assert copy.stride() == x.stride() and torch.equal(copy, x) and nested["a"][1] == (None, 3)
    copy.zero_()
    assert float(x.sum()) > 0 and torch.equal(nested["b"][0], x)
