"""The processes of a training, and how a model is spread over them with FSDP2.

``torchrun`` starts several processes; without it there is one, which spreads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from janus_edge.model.language import Attention
from janus_edge.train.attention import plain_attention


@dataclass(frozen=True)
class World:
    """The processes.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        device: Where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True in the one process that logs and writes what is written once."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Return the sums of numbers over all processes."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(each) for each in total]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[World]:
    """Yield the processes that ``torchrun`` started; one alone without it."""
    is_gpu = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if is_gpu else torch.device("cpu")
    if is_gpu:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if is_gpu else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def prepare(
    trainee: nn.Module,
    layers: nn.ModuleList,
    world: World,
    *,
    bf16: bool,
    checkpointing: bool,
    compiled: bool,
) -> None:
    """Set a model up for training, in place: attention, checkpointing, compilation, FSDP2.

    Each layer of the language model is gathered when it computes, all else once per step: every
    process runs every layer in each of its turns, but not every process has an image in each.

    Args:
        trainee: The whole, whose forward returns losses.
        layers: The language model's layers, inside of it.
        world: The processes.
        bf16: True to gather and compute in bf16; gradients are summed in fp32.
        checkpointing: True to compute a layer's activations again in the backward pass, so that
            only its input is kept.
        compiled: True to compile the layers.
    """
    for layer in layers:
        for part in layer.modules():
            if world.device.type == "cpu" and isinstance(part, Attention):
                part.attention = plain_attention
        if checkpointing:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        if compiled:
            layer.compile(dynamic=True)
    if world.size == 1:
        return
    policy = MixedPrecisionPolicy(torch.bfloat16 if bf16 else None, torch.float32)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(trainee, mesh=mesh, mp_policy=policy)


def exchange_gradients(trainee: nn.Module, wanted: bool) -> None:
    """Choose whether the next backward pass sums gradients over all processes."""
    if isinstance(trainee, FSDPModule):
        trainee.set_requires_gradient_sync(wanted)


def whole(value: Tensor) -> Tensor:
    """Return a number that FSDP spreads over the processes."""
    full = getattr(value, "full_tensor", None)
    return value if full is None else full()
