"""The vision encoder, the aligner and the image decoder, as our own library runs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.export.bundle.writer import export_bundle
from janus_edge.export.graph.beside import _phases, codes_beside, latents_beside
from janus_edge.export.quantization.quantize import QuantSpec, pack, unpack
from janus_edge.model.codebook import (
    AttnBlock,
    Quantizer,
    ResnetBlock,
    Upsample,
    VQTokenizer,
    group_norm,
)
from janus_edge.model.config import CodebookConfig, VisionConfig
from janus_edge.model.janus import Janus
from janus_edge.model.vae import VAE, VAEConfig
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.backends import Engine, Shared, cpu_kernels, cpu_library
from janus_edge.runtime.backends.cpu_images import CpuImageDecoder
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.manifest import Component, File
from janus_edge.runtime.manifest import Tensor as Tensor_
from janus_edge.runtime.sizes import CodeSizes, FlowSizes
from janus_edge.train.initial import initialise
from janus_edge.train.text import TEMPLATE, make_tokenizer
from tests.conftest import RANDOM
from tests.runtime.cpu_models import needs_library
from tests.runtime.test_same_bits import SETS

pytestmark = needs_library
NAMES = ("vision_encoder", "vision_aligner", "image_decoder")
SIZES = {
    # heads of 16, widths that are no whole blocks, channels in blocks of 32
    "narrow": (
        VisionConfig(image_size=32, patch_size=8, width=32, layers=2, heads=2),
        CodebookConfig(
            size=40,
            dim=8,
            z_channels=20,
            channels=16,
            encoder_ch_mult=(1, 1, 2, 2),
            decoder_ch_mult=(1, 1, 2, 3),
            num_res_blocks=1,
            num_groups=4,
        ),
    ),
    # 25 patches: two groups of queries and a rest; channels in blocks of 128
    "wide": (
        VisionConfig(image_size=40, patch_size=8, width=256, layers=1, heads=2),
        CodebookConfig(
            size=64,
            dim=8,
            z_channels=128,
            channels=128,
            encoder_ch_mult=(1, 1, 1, 2),
            decoder_ch_mult=(1, 1, 1, 2),
            num_res_blocks=1,
            num_groups=32,
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Made:
    model: Janus
    bundle: Bundle

    def open(self, name: str, num_threads: int = 2) -> Engine:
        return cpu_kernels.load(self.bundle, name, Shared(num_threads))

    def inputs(self, name: str) -> dict[str, np.ndarray]:
        rng, config = np.random.default_rng(3), self.model.config
        side = config.vision.image_size
        pixels = rng.uniform(-1, 1, (2, 3, side, side)).astype(np.float32)
        if name == "vision_encoder":
            return {"pixels": pixels}
        if name == "image_decoder":
            return {"codes": rng.integers(0, config.codebook.size, (2, config.num_codes))}
        with torch.no_grad():
            return {"features": self.model.vision_model(torch.from_numpy(pixels)).numpy()}

    def references(self, name: str, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return what PyTorch computes: quantized as the kernels do, and exact."""
        modules: dict[str, Any] = {
            "vision_encoder": (self.model.vision_model, self.model.vision_model),
            "vision_aligner": (self.model.aligner, self.model.aligner),
            "image_decoder": (self.model.gen_vision_model, self.model.gen_vision_model.decode),
        }
        module, function = modules[name]
        (given,) = inputs.values()
        with torch.no_grad():
            exact = function(torch.from_numpy(given)).numpy()
            with _quantized(module):
                return [function(torch.from_numpy(given)).numpy(), exact]


@contextmanager
def _quantized(module: nn.Module) -> Iterator[None]:
    """Quantize weights and inputs of linear layers and convolutions inside the block."""
    doubling = [m.conv for m in module.modules() if isinstance(m, Upsample)]
    layers = [
        m
        for m in module.modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and not any(m is each for each in doubling)
    ]
    kept, hooks = [layer.weight for layer in layers], []
    for layer in layers:
        if layer.weight.shape[1] == 8 and layer.weight.shape[-1] == 1:
            continue  # of a cell's vector: in float32
        block = 128 if isinstance(layer, nn.Linear) else _block(layer)
        layer.weight = nn.Parameter(_rounded_weight(layer, block), requires_grad=False)
        hooks.append(layer.register_forward_pre_hook(_rounds(layer, block)))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Upsample, "forward", _doubled)
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight = weight


def _doubled(step: Upsample, x_BCHW: Tensor) -> Tensor:
    """Double as the kernels do: 2 x 2 windows of pixels that are not repeated."""
    block = 32 if x_BCHW.shape[1] % 128 else 128
    x_BCHW = _rounded(x_BCHW.movedim(1, -1), block).movedim(-1, 1)
    batch, channels, height, width = x_BCHW.shape
    y_BCHW = torch.empty(batch, channels, 2 * height, 2 * width)
    for number, weight in enumerate(_phases(step.conv.weight).values()):
        row, column = divmod(number, 2)
        padded = F.pad(x_BCHW, (1 - column, column, 1 - row, row))
        rows = weight.movedim(1, -1).reshape(-1, channels).contiguous()
        rounded = _in_8_bits(rows, block).reshape(weight.movedim(1, -1).shape).movedim(-1, 1)
        y_BCHW[..., row::2, column::2] = F.conv2d(padded, rounded, step.conv.bias)
    return y_BCHW


def _in_8_bits(rows: Tensor, block: int) -> Tensor:
    spec = QuantSpec(bits=8, block_size=block)
    return torch.from_numpy(unpack(*pack(rows.numpy(), spec), spec, rows.shape[1]))


def _rounded(x: Tensor, block: int) -> Tensor:
    """Return inputs rounded to 8 bits in blocks of the last axis."""
    filled = F.pad(x, (0, -x.shape[-1] % block)).reshape(*x.shape[:-1], -1, block)
    scale = filled.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return ((filled / scale).round() * scale).flatten(-2)[..., : x.shape[-1]]


def _block(layer: nn.Conv2d) -> int:
    inputs = layer.weight[0].numel() if layer.stride[0] > 1 else layer.weight.shape[1]
    return 32 if inputs % 128 else 128


def _rounded_weight(layer: nn.Linear | nn.Conv2d, block: int) -> Tensor:
    """Return the weight in 8 bits: blocks lie within a tap, except of patches."""
    exact = layer.weight.detach()
    is_patch = isinstance(layer, nn.Conv2d) and layer.stride[0] > 1
    rows = exact.flatten(1) if is_patch or exact.ndim == 2 else exact.movedim(1, -1)
    flat = rows.reshape(-1, rows.shape[-1]).contiguous()
    found = _in_8_bits(flat, block).reshape(rows.shape)
    return found.reshape(exact.shape) if rows.ndim == 2 else found.movedim(-1, 1)


def _rounds(layer: nn.Module, block: int) -> Any:
    def hook(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = given
        if isinstance(layer, nn.Linear):
            return (_rounded(x, block),)
        if layer.stride[0] == 1:
            return (_rounded(x.movedim(1, -1), block).movedim(-1, 1),)
        patches = F.unfold(x, layer.kernel_size, stride=layer.stride).transpose(1, 2)
        size, edge = x.shape[-2:], layer.kernel_size
        return (F.fold(_rounded(patches, block).transpose(1, 2), size, edge, stride=layer.stride),)

    return hook


@pytest.fixture(scope="module", params=SIZES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    vision, codebook = SIZES[request.param]
    torch.manual_seed(2)
    model = Janus(dataclasses.replace(RANDOM, vision=vision, codebook=codebook))
    initialise(model)
    with torch.no_grad():
        for parameter in model.parameters():  # no bias is 0, no norm 1
            if parameter.ndim == 1:
                parameter += torch.randn_like(parameter) * 0.1
            parameter.copy_(parameter.half())  # the preset rounds to fp16 first
    checkpoint = Checkpoint(
        model=model,
        tokenizer_json=make_tokenizer(RANDOM.language.vocab_size, 300).to_str(),
        prompt=dataclasses.asdict(TEMPLATE),
        sampling={"guidance_scale": 3.0, "temperature": 0.9},
    )
    folder = tmp_path_factory.mktemp("images") / "b"
    export_bundle(checkpoint, folder, max_length=96, quantize="int4", report=lambda line: None)
    return Made(model, open_bundle(folder))


@pytest.mark.parametrize("name", NAMES)
def test_they_compute_what_pytorch_does(made: Made, name: str) -> None:
    assert cpu_kernels.runs(name, made.bundle.manifest)
    inputs = made.inputs(name)
    (found,), (quantized, exact) = made.open(name).run(inputs), made.references(name, inputs)
    # Attention has 12 bits. A small difference there lets later inputs take the neighbouring level.
    assert _difference(found, quantized) < (0.08 if name == "image_decoder" else 6e-3)
    assert _difference(found, exact) < 1.2 * _difference(quantized, exact) + 1e-3


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


class _Steps(nn.Module):
    """A VQ decoder with the steps that are given, for 6 x 6 cells."""

    def __init__(self, channels: int, groups: int, steps: list[nn.Module]) -> None:
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.conv_in = nn.Conv2d(32, channels, 3, padding=1)
        self.decoder.mid = nn.ModuleList(steps)
        self.decoder.conv_blocks = nn.ModuleList()
        self.decoder.norm_out = group_norm(channels, groups)
        self.decoder.conv_out = nn.Conv2d(channels, 3, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(8, 32, 1)
        self.quantize = Quantizer(dataclasses.replace(RANDOM.codebook, size=50))

    def forward(self, codes_BN: Tensor) -> Tensor:
        x_BCHW = self.post_quant_conv(self.quantize.lookup(codes_BN, 6, 6))
        x_BCHW = self.decoder.conv_in(x_BCHW)
        for step in self.decoder.mid:
            x_BCHW = step(x_BCHW)
        return self.decoder.conv_out(F.silu(self.decoder.norm_out(x_BCHW)))


@pytest.mark.parametrize(("channels", "groups"), [(32, 4), (128, 32), (48, 3)])
@pytest.mark.parametrize("kind", ["none", "residual", "attention", "double"])
def test_each_step_is_exact(kind: str, channels: int, groups: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    steps: dict[str, list[nn.Module]] = {
        "none": [],
        "residual": [ResnetBlock(channels, channels, groups)],
        "attention": [AttnBlock(channels, groups)],
        "double": [Upsample(channels)],
    }
    vq, side = _Steps(channels, groups, steps[kind]), 12 if kind == "double" else 6
    codes = torch.randint(0, 50, (1, 36))
    component = Component.model_construct(
        data=File.model_construct(file="x.data"),
        tensors=codes_beside(cast(VQTokenizer, vq), tmp_path / "x.data"),
        constants={"groups": groups},
        inputs=(Tensor_.model_construct(name="codes"),),
        outputs=(Tensor_.model_construct(name="pixels", shape=("B", 3, side, side)),),
    )
    sizes = CodeSizes.model_construct(codebook_size=50, code_grid=6)
    ours = CpuImageDecoder(tmp_path, component, sizes, cpu_library.Pool(2))
    (found,) = ours.run({"codes": codes.numpy()})
    with _quantized(vq), torch.no_grad():
        expected = vq(codes).numpy()
    error = np.abs(found - expected) / np.sqrt(np.mean(expected**2))
    if kind == "attention":
        assert _difference(found, expected) < 6e-3
    else:  # a number between two levels may go to either, which moves the pixels around it
        assert np.quantile(error, 0.9) < 2e-5 and error.max() < 2e-3


@pytest.mark.parametrize("widths", [(128, 256), (128, 128, 128)])
def test_latents_are_decoded_as_pytorch_does(widths: tuple[int, ...], tmp_path: Path) -> None:
    config = VAEConfig(
        latent_channels=8,  # as of a code's vector: what _quantized leaves in float32
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=32,
        scaling_factor=0.13,
    )
    torch.manual_seed(1)
    vae, side = VAE(config), 6 * config.stride
    latent = torch.randn(2, 8, 6, 6)
    component = Component.model_construct(
        data=File.model_construct(file="x.data"),
        tensors=latents_beside(vae, tmp_path / "x.data"),
        constants={"groups": config.norm_num_groups},
        inputs=(Tensor_.model_construct(name="latent"),),
        outputs=(Tensor_.model_construct(name="pixels", shape=("B", 3, side, side)),),
    )
    sizes = FlowSizes.model_construct(latent_channels=8, latent_size=6)
    ours = CpuImageDecoder(tmp_path, component, sizes, cpu_library.Pool(2))
    (found,) = ours.run({"latent": latent.numpy()})
    with torch.no_grad():
        exact = vae.to_pixels(latent).numpy()
        with _quantized(vae):
            quantized = vae.to_pixels(latent).numpy()
    assert _difference(found, quantized) < 0.08
    assert _difference(found, exact) < 1.2 * _difference(quantized, exact) + 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set_gives_the_same_bits(made: Made, name: str) -> None:
    library = cpu_kernels.library()
    assert library is not None
    inputs, found = made.inputs(name), {}
    try:
        for each in SETS:
            if library.je_choose_instructions(each.encode()) == 1:
                (found[each],) = made.open(name, 2).run(inputs)
        (alone,) = made.open(name, 1).run({key: array[1:] for key, array in inputs.items()})
    finally:
        library.je_choose_instructions(None)
    assert len(found) > 1
    for each, array in found.items():
        assert np.array_equal(array, found["portable"]), each
    assert np.array_equal(alone, found["portable"][1:])


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("vision_encoder", "blocks.0.attn.qkv.weight.tiles", "no blocks.0.attn.qkv"),
        ("vision_encoder", "pos_embed", "no pos_embed"),
        ("vision_encoder", "norm.bias", "no norm.bias"),
        ("vision_aligner", "layers.0.weight.tiles", "no layers.2.weight.tiles"),
        ("image_decoder", "codebook", "no codebook"),
        ("image_decoder", "steps.0.conv2.weight.tiles", "no steps.0.conv2"),
        ("image_decoder", "steps.1.norm.weight", "no steps.1.norm"),
        ("image_decoder", "last.weight.tiles", "no last"),
        ("image_decoder", "cells.bias", "sizes do not fit together"),
    ],
)
def test_a_missing_weight_is_named(made: Made, name: str, tensor: str, words: str) -> None:
    with pytest.raises(BundleError, match=rf"{name}\.data: .*{words}"):
        _damaged(made, name, lambda tensors: tensors.pop(tensor))


@pytest.mark.parametrize("name", NAMES)
def test_weights_outside_the_file_are_refused(made: Made, name: str) -> None:
    def move(tensors: dict[str, Any]) -> None:
        for key in tensors:
            tensors[key] = tensors[key].model_copy(update={"offset": 2**40 + tensors[key].offset})

    with pytest.raises(BundleError, match=r"is not inside"):
        _damaged(made, name, move)


@pytest.mark.parametrize(
    ("name", "constant", "value"),
    [
        ("vision_encoder", "heads", 0),
        ("vision_encoder", "heads", 5),
        ("vision_encoder", "patch_size", 0),
        ("vision_encoder", "patch_size", 1e9),
        ("image_decoder", "groups", 0),
        ("image_decoder", "groups", 2**31),
        ("image_decoder", "groups", 7),
    ],
)
def test_wrong_constants_are_refused(made: Made, name: str, constant: str, value: float) -> None:
    component = made.bundle.manifest.components[name]
    constants = component.constants | {constant: value}
    with pytest.raises(BundleError, match=rf"{name}\.data: "):
        _open(made, name, component.model_copy(update={"constants": constants}))


def _damaged(made: Made, name: str, damage: Any) -> None:
    component = made.bundle.manifest.components[name]
    tensors = dict(component.tensors)
    damage(tensors)
    _open(made, name, component.model_copy(update={"tensors": tensors}))


def _open(made: Made, name: str, component: Any) -> None:
    manifest = made.bundle.manifest
    changed = manifest.model_copy(update={"components": manifest.components | {name: component}})
    cpu_kernels.load(dataclasses.replace(made.bundle, manifest=changed), name, Shared(1))


def test_a_code_that_there_is_not_is_refused(made: Made) -> None:
    codes = made.inputs("image_decoder")["codes"]
    codes[0, 0] = made.model.config.codebook.size
    with pytest.raises(ValueError, match="codes from"):
        made.open("image_decoder").run({"codes": codes})
