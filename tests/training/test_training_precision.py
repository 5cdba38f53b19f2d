"""In which number format a step computes: what is halved, what stays float32, and what may be asked for."""

import pytest
import torch
from torch import Tensor, nn

from fit_kit import few_digits, fresh_net
from training.loop.fit import fit
from training.loop.precision import resolve_precision
from training.settings.config import PRECISIONS, ConfigError, FitConfig

CPU = torch.device("cpu")
FEW = few_digits()


def test_in_bfloat16_convolutions_are_halved_and_batchnorm_is_not():
    """BatchNorm reads bfloat16 and sums float32: a bfloat16 sum of 25,088 values would be off by percents."""
    net = fresh_net(FEW)
    norm, read, answered = net.blocks[1], [], []
    norm.momentum = 1.0  # the running statistics are the last batch's

    def listen(module: nn.Module, arguments: tuple[Tensor, ...], answer: Tensor) -> None:
        if net.training:  # not in the report's pass at the end
            read.append(arguments[0].detach().clone())
            answered.append(answer.dtype)

    norm.register_forward_hook(listen)
    next(fit(net, FEW, FitConfig(epochs=1, batch_size=32, precision="bfloat16")))
    assert {x.dtype for x in read} == set(answered) == {torch.bfloat16}
    x = read[-1].double().transpose(0, 1).flatten(1)
    # n·2⁻²⁴ bounds a float32 sum of n terms, in any order; n = 32·28·28
    bound = x.shape[1] * 2**-24
    assert (norm.running_mean - x.mean(1)).abs().max() <= bound * x.abs().mean(1).max()
    assert (norm.running_var / x.var(1) - 1).abs().max() <= 2 * bound
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32, torch.int64}
    assert all(parameter.grad.dtype == torch.float32 for parameter in net.parameters())


def test_a_precision_is_what_its_name_says_or_a_sentence():
    assert resolve_precision("auto", CPU) == torch.float32
    assert {resolve_precision(name, CPU) for name in PRECISIONS if name != "float16"} == {
        torch.float32,
        torch.bfloat16,
    }
    with pytest.raises(ConfigError, match="precision float16 needs a GPU"):
        resolve_precision("float16", CPU)


@pytest.mark.parametrize(("has_bfloat16", "auto"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_only_where_the_gpu_has_it(monkeypatch, has_bfloat16, auto):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    cuda = torch.device("cuda")
    assert resolve_precision("auto", cuda) == auto
    assert resolve_precision("float16", cuda) == torch.float16
    if not has_bfloat16:
        with pytest.raises(ConfigError, match="bfloat16 is not supported by this GPU"):
            resolve_precision("bfloat16", cuda)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch has no CUDA device")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_on_a_gpu_halves_learn_and_statistics_stay_float32(precision):
    split = FEW.to(torch.device("cuda"))
    net = fresh_net(FEW).cuda()
    dtypes: set[torch.dtype] = set()
    net.blocks[0].register_forward_hook(
        lambda module, args, out: dtypes.add(out.dtype) if module.training else None
    )
    first, *_, last = fit(net, split, FitConfig(epochs=8, batch_size=32, precision=precision))
    assert dtypes == {getattr(torch, precision)}
    assert {value.dtype for key, value in net.state_dict().items() if "running" in key} == {torch.float32}
    assert last.facts.held_out_loss < first.facts.held_out_loss
    assert bool(last.state.scaler) == (precision == "float16")
