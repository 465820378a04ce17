"""swap on models that come from no file: the source's sanity models, three levels, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import asrcompress
from asrcompress.errors import AsrCompressError
from asrcompress.metrics.honesty import judge_run, reached
from asrcompress.metrics.trace import Trace, trace_run
from asrcompress.ops.recipe import QuantizeConfig

LEVELS = ("stored", "computed", "integer-only")


def images(count: int, size: int, seed: int) -> Tensor:
    """(count, 3, size, size): smooth colours with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(count, 3, size // 8, size // 8, generator=generator), size=size, mode="bilinear")
    return smooth + 0.05 * torch.randn(smooth.shape, generator=generator)


def decibels(wanted: Tensor, got: Tensor) -> float:
    """Signal to quantization noise; of the signal what varies, since a bias alone would be loud."""
    signal = wanted - wanted.mean(dim=(0, *range(2, wanted.dim())), keepdim=True)
    return float(10 * torch.log10(signal.square().sum() / (wanted - got).square().sum()))


def traced(model: nn.Module, *inputs: Tensor) -> Trace:
    with torch.no_grad():
        return trace_run(model, lambda: model(*inputs))


def level_of(model: nn.Module, *inputs: Tensor) -> str:
    """The level that a run of the model proves, as the audit judges it."""
    return reached(judge_run(model, traced(model, *inputs)), any_packed=True)


class SRCNN(nn.Module):
    """arXiv 1501.00092: kernels of 9, 1 and 5; 64 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 9, padding=4)
        self.mapping = nn.Conv2d(64, 32, 1)
        self.reconstruction = nn.Conv2d(32, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.patches(x))
        return self.reconstruction(F.relu(self.mapping(x)))


@pytest.fixture(scope="module")
def srcnn() -> nn.Module:
    torch.manual_seed(0)
    return SRCNN().eval()


def on_images(model: nn.Module) -> None:
    model(images(4, 32, 1))


# As measured: 38.0, 31.1, 32.7 dB at 8 bits, 13.2 to 13.3 at 4.
@pytest.mark.parametrize(
    ("bits", "level", "least"),
    [
        (8, "stored", 36), (8, "computed", 29), (8, "integer-only", 30.5),
        (4, "stored", 12), (4, "computed", 12), (4, "integer-only", 12),
    ],
)  # fmt: skip
@torch.no_grad()
def test_srcnn(srcnn: nn.Module, bits: int, level: str, least: float) -> None:
    x = images(2, 32, 9)
    module = asrcompress.swap(srcnn, calibrate=on_images, level=level, bits=bits)
    found = decibels(srcnn(x), module(x))
    print(f"SRCNN, {bits} bits, {level}: {found:.1f} dB")
    assert least < found < least + 5
    assert level_of(module, x) == level
    assert module(x).dtype == torch.float32


def by_brightness(x: Tensor) -> Tensor:
    """Five classes of pixels."""
    return (F.avg_pool2d(x, 5, 1, 2).mean(1) * 12 - 3.5).clamp(0, 4).long()


def trained(model: nn.Module, steps: int) -> nn.Module:
    """A network of random weights is no measure: its output hardly follows its input. A few seconds of training are enough."""
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-3)
    for step in range(steps):
        x = images(4, 64, 1000 + step)
        loss = sum(F.cross_entropy(scores, by_brightness(x)) for scores in model(x).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for seed in range(8):
            model(images(4, 64, seed))
    return model.eval()


def dilated_resnet() -> nn.Module:
    """torchvision's DeepLabV3 on its ResNet of three stages with one bottleneck each, the last stride replaced by dilation."""
    from torchvision.models import resnet
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation import deeplabv3

    backbone = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, False])
    features = IntermediateLayerGetter(backbone, {"layer3": "out"})
    return deeplabv3.DeepLabV3(features, deeplabv3.DeepLabHead(1024, 5, (2, 4, 6)))


def mobilenet() -> nn.Module:
    """Depthwise convolutions, squeeze and excitation, hardswish; an auxiliary output."""
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    return deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)


# Signal to noise at 8 bits at least. As measured: 37 to 42 dB and 10 to 25, depending on how the few steps of training went.
DEEPLAB = {
    "resnet": (dilated_resnet, 12, {"stored": 30, "computed": 30, "integer-only": 28}),
    "mobilenet": (mobilenet, 10, {"stored": 12, "computed": 11, "integer-only": 7}),
}


@pytest.fixture(scope="module", params=DEEPLAB)
def deeplab(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """torchvision's DeepLabV3, trained a little; nothing is downloaded."""
    pytest.importorskip("torchvision", reason="torchvision is absent: DeepLabV3 is not tested")
    torch.manual_seed(0)
    build, steps, _ = DEEPLAB[request.param]
    return request.param, trained(build(), steps)


@pytest.mark.parametrize("level", LEVELS)
@torch.no_grad()
def test_deeplab_v3(deeplab: tuple[str, nn.Module], level: str) -> None:
    """Dilated and grouped convolutions, BatchNorm, broadcast products, pooling, interpolation, concatenation."""
    name, model = deeplab
    x = images(2, 64, 99)
    module = asrcompress.swap(model, calibrate=lambda m: m(images(3, 64, 50)), level=level)
    wanted, got = model(x), module(x)
    assert list(got) == list(wanted)
    found = {key: decibels(wanted[key], got[key]) for key in got}
    print(f"DeepLabV3 {name}, 8 bits, {level}: {', '.join(f'{key} {value:.1f} dB' for key, value in found.items())}")
    least = DEEPLAB[name][2][level]
    assert least < min(found.values()) < 60
    assert not any("BatchNorm" in type(part).__name__ for part in module.modules())
    assert level_of(module, x) == level


class Small(nn.Module):
    """A convolution, a BatchNorm that cannot be folded, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 4)
        self.tail = nn.Linear(8, 2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, list[int], Tensor]:
        x = F.relu(self.conv(self.norm(x))).mean(dim=(2, 3))
        return self.head(x), [1], self.tail(x)


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    model = Small().eval()
    nn.init.uniform_(model.norm.running_var, 0.5, 2)
    nn.init.normal_(model.norm.running_mean)
    return model


X = images(3, 16, 5)


def on_x(model: nn.Module) -> None:
    model(X)


@torch.no_grad()
def test_the_model_that_is_given_stays_as_it_is(small: nn.Module) -> None:
    small.train()
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    module = asrcompress.swap(small, calibrate=on_x, level="integer-only")
    assert small.training and type(small.conv) is nn.Conv2d and type(small.norm) is nn.BatchNorm2d
    assert not small.conv._forward_hooks and not small._forward_pre_hooks and "forward" not in vars(small)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    assert not any(part.training for part in module.modules())
    theirs = {tensor.untyped_storage().data_ptr() for tensor in small.state_dict().values()}
    assert theirs.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values())


@torch.no_grad()
def test_a_batch_norm_that_is_left_runs_on_integers_and_every_output_is_float(small: nn.Module) -> None:
    module = asrcompress.swap(small, calibrate=on_x, level="integer-only")
    assert type(module.norm).__name__ == "IntegerBatchNorm" and "num_bits=8" in repr(module)
    wanted, got = small(X), module(X)
    assert got[1] == [1] and all(type(got[index]) is Tensor and got[index].dtype == torch.float32 for index in (0, 2))
    assert decibels(wanted[0], got[0]) > 35 and decibels(wanted[2], got[2]) > 24  # as measured: 38.2 and 27.0
    assert level_of(module, X) == "integer-only"


@torch.no_grad()
def test_without_data_a_batch_norm_stays_and_with_data_it_is_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    plain, folded = asrcompress.swap(model), asrcompress.swap(model, calibrate=on_x)
    assert type(plain[1]) is nn.BatchNorm2d and type(folded[1]) is nn.Identity
    assert min(decibels(model(X), module(X)) for module in (plain, folded)) > 35


def test_a_recipe_file_a_config_and_options_by_name(small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('bits = 4\nactivations = "int8"\n[[rules]]\nmodules = "head"\nbits = 8\n', encoding="utf-8")

    def described(module: nn.Module) -> list[tuple[int, str]]:
        return [(part.packed.num_bits, part.activations) for part in (module.conv, module.head, module.tail)]

    assert described(asrcompress.swap(small, path)) == [(4, "int8"), (8, "int8"), (4, "int8")]
    assert described(asrcompress.swap(small, str(path), bits=3)) == [(3, "int8"), (8, "int8"), (3, "int8")]
    assert described(asrcompress.swap(small, path, level="stored", rules=[])) == [(4, "none")] * 3
    config = QuantizeConfig(num_bits=2, level="computed")
    assert described(asrcompress.swap(small, config)) == [(2, "int8")] * 3
    rules = [{"modules": "*", "bits": 3}, {"modules": "tail", "bits": 4, "level": "stored"}]
    assert described(asrcompress.swap(small, config, rules=rules)) == [(3, "int8"), (3, "int8"), (4, "none")]


@pytest.mark.parametrize(("level", "floats"), [("float", True), ("stored", True), ("computed", True), (None, False)])
@torch.no_grad()
def test_a_rule_keeps_one_module_in_float_in_a_model_of_integers(
    srcnn: nn.Module, level: str | None, floats: bool
) -> None:
    rules = [{"modules": "mapping", "level": level}] if level else []
    module = asrcompress.swap(srcnn, calibrate=on_images, level="integer-only", rules=rules)
    x = images(1, 32, 9)
    assert decibels(srcnn(x), module(x)) > 28
    trace = traced(module, x)
    assert {record.module.split(".")[0] for record in trace.float_ops} == ({"mapping"} if floats else set())
    assert type(module.mapping).__name__ == ("Conv2d" if level == "float" else "IntegerConv")
    assert (reached(judge_run(module, trace), any_packed=True) == "integer-only") is not floats
    multiplied = {
        dtype
        for record in trace.ops
        if record.macs and record.module.startswith("mapping")
        for dtype in record.operand_dtypes
    }
    assert multiplied == ({"float32"} if level in ("float", "stored") else {"int8"})


@torch.no_grad()
def test_a_rule_gives_activations_fewer_bits(srcnn: nn.Module) -> None:
    x = images(1, 32, 9)

    def quality(*rules: dict[str, str]) -> float:
        return decibels(srcnn(x), asrcompress.swap(srcnn, calibrate=on_images, level="integer-only", rules=rules)(x))

    coarse = {"modules": "mapping:in", "activations": "int4"}
    assert quality() > 32 > 25 > quality(coarse)
    assert quality(coarse, {"modules": "mapping", "activations": "int8"}) > 28  # the last one counts
    with pytest.raises(AsrCompressError, match="rule 'mapping:inn' fits no module or site with activations"):
        quality({"modules": "mapping:inn", "activations": "int4"})


@torch.no_grad()
def test_methods_that_look_at_data_and_bias_correction_do_better(srcnn: nn.Module) -> None:
    x = images(2, 32, 9)

    def error(**options: object) -> Tensor:
        return asrcompress.swap(srcnn, calibrate=on_images, bits=3, **options)(x) - srcnn(x)

    assert error(method="gptq").square().mean() < 0.5 * error().square().mean()
    assert error(bias_correction=True).mean().abs() < 0.5 * error().mean().abs()


class Tagger(nn.Module):
    """Tokens in, recurrent, with normalisation of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 12, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(24)
        self.out = nn.utils.parametrizations.weight_norm(nn.Linear(24, 5))

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.out(F.gelu(self.norm(self.lstm(self.embedding(tokens))[0])))
        return out


@pytest.mark.parametrize("level", LEVELS)
@torch.no_grad()
def test_a_recurrent_model_over_tokens(level: str) -> None:
    torch.manual_seed(0)
    model = Tagger().eval()
    tokens = torch.randint(0, 20, (3, 9))
    module = asrcompress.swap(model, calibrate=lambda m: m(torch.randint(0, 20, (8, 9))), level=level)
    assert decibels(model(tokens), module(tokens)) > 30
    assert level_of(module, tokens) == level


@pytest.mark.parametrize("level", ["computed", "integer-only"])
def test_a_module_that_multiplies_and_has_no_twin_is_named(level: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ConvTranspose2d(4, 3, 3)))
    with pytest.raises(
        AsrCompressError, match=rf"module '1\.0' \(ConvTranspose2d\) has no .* level {level} is out of reach"
    ):
        asrcompress.swap(model, calibrate=on_x, level=level)
    module = asrcompress.swap(model, level="stored")
    assert type(module[1][0]) is nn.ConvTranspose2d and type(module[0]).__name__ == "IntegerConv"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "integer-only"}, "level integer-only needs data; give calibrate="),
        ({"method": "gptq"}, "method gptq needs data"),
        ({"bias_correction": True}, "bias_correction needs data"),
        ({"bit": 4}, "swap: 'bit' is not an option; use bits, "),
        ({"bits": "4"}, "swap: 'bits' must be int"),
        ({"include": "head.*"}, "swap: 'include' must be a list of strings"),
        ({"bits": 9}, "bits 9: use one of"),
        ({"rules": [{"modules": "nothing", "bits": 4}]}, "rule 'nothing' fits no module"),
        ({"rules": [{"module": "head"}]}, "swap: 'module' is not an option of a rule"),
        ({"exclude": ["nope.*"]}, r"exclude 'nope\.\*' fits no weight"),
    ],
)
def test_options_that_do_not_fit_are_one_line(small: nn.Module, options: dict[str, object], message: str) -> None:
    with pytest.raises(AsrCompressError, match=message) as caught:
        asrcompress.swap(small, **options)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_swapped_say_so(small: nn.Module) -> None:
    with pytest.raises(AsrCompressError, match="Sequential has no weight that can be packed"):
        asrcompress.swap(nn.Sequential(nn.ReLU()))
    with pytest.raises(AsrCompressError, match=r"itself is a Linear; wrap it, torch\.nn\.Sequential"):
        asrcompress.swap(nn.Linear(3, 3))
    with torch.no_grad():
        small.tail.weight[0, 0] = float("nan")
    with pytest.raises(AsrCompressError, match=r"tail\.weight: holds NaN"):
        asrcompress.swap(small)


@torch.no_grad()
def test_what_calibration_never_ran_is_named_when_it_runs(small: nn.Module) -> None:
    module = asrcompress.swap(small, calibrate=lambda m: None, level="integer-only")
    with pytest.raises(AsrCompressError, match="has no grid, since calibration never ran it"):
        module(X)


@torch.no_grad()
def test_attention_that_reads_its_weights_itself_is_left_whole_or_named() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    x = torch.randn(3, 7, 16)
    module = asrcompress.swap(model)
    assert type(module.layers[0].linear1).__name__ == "IntegerLinear"
    assert type(module.layers[0].self_attn.out_proj).__mro__[1] is nn.Linear
    assert 30 < decibels(model(x), module(x)) < 60
    with pytest.raises(
        AsrCompressError, match=r"module 'layers\.0\.self_attn' \(MultiheadAttention\) has no integer twin"
    ):
        asrcompress.swap(model, level="computed")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm_that_has_run_with_gradients_is_copied_and_made_plain() -> None:
    model = nn.Sequential(
        nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    )
    wanted = model(X)  # leaves a tensor with a gradient in the first module, which copy.deepcopy refuses
    module = asrcompress.swap(model)
    assert [type(part).__name__ for part in module] == ["IntegerConv"] * 2
    assert decibels(wanted, module(X)) > 30 and torch.equal(model(X), wanted)
    model(X).sum().backward()
    assert model[0].weight_g.grad is not None and model[1].parametrizations.weight.original0.grad is not None
