from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.stop import Stopped
from janus_edge.train.loop import LossAt, Stage, run_stage, select_trainable

STAGE = Stage(
    name="s",
    num_steps=50,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=5,
    decay_from=0.5,
    weight_decay=0.01,
    trainable=("0.",),
)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))


def make_loss(model: nn.Module, stop_at: int | None = None) -> LossAt:
    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == stop_at:
            raise Stopped(signal.SIGINT)
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.sum(1, keepdim=True)).square().mean(), {"metric": float(step)}

    return loss_at


@pytest.mark.parametrize("by_muon", [(), ("0.",)])
def test_a_stopped_run_ends_like_one_that_was_not(tmp_path: Path, by_muon: tuple[str, ...]) -> None:
    staged = dataclasses.replace(STAGE, by_muon=by_muon)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    model = make_model()
    run_stage(model, staged, make_loss(model), whole)
    for stop in (17, 18, 41):
        again = make_model()
        with pytest.raises(Stopped) as stopped:
            run_stage(again, staged, make_loss(again, stop), parts, save_every_s=0)
        assert f"stage s is saved at step {stop} of 50" in str(stopped.value)
    last = make_model()
    run_stage(last, staged, make_loss(last), parts, save_every_s=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, last.state_dict()[name]), name
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for folder in (whole, parts)
    ]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [20, 40, 50]


def test_a_state_of_another_optimizer_is_named(tmp_path: Path) -> None:
    run_to(30, tmp_path)
    model = make_model()
    other = dataclasses.replace(STAGE, by_muon=("0.",))
    with pytest.raises(OptionError, match=r"s\.pt: of another model or optimizer; remove it"):
        run_stage(model, other, make_loss(model), tmp_path)


def test_muon_moves_a_matrix_as_far_in_all_directions(tmp_path: Path) -> None:
    model = make_model()
    before = model[0].weight.detach().clone()
    one = dataclasses.replace(STAGE, num_steps=1, weight_decay=0.0, by_muon=("weight",))
    slope_83 = torch.eye(8, 3) * torch.tensor([100.0, 10, 1])  # one direction is much steeper
    run_stage(model, one, lambda step: ((model[0].weight * slope_83).sum(), {}), tmp_path)
    moved_3 = torch.linalg.svdvals(model[0].weight.detach() - before)
    assert moved_3[2] > 0.5 * moved_3[0] > 0


def test_a_finished_stage_is_loaded_and_left_alone(tmp_path: Path) -> None:
    model = make_model()
    run_stage(model, STAGE, make_loss(model), tmp_path)
    other = make_model()
    run_stage(other, STAGE, make_loss(other, stop_at=0), tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_only_what_is_named_is_trained(tmp_path: Path) -> None:
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run_stage(model, STAGE, make_loss(model), tmp_path)
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {"0.weight", "0.bias"}
    with pytest.raises(ValueError, match="nothing"):
        select_trainable(model, ("nothing",))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(FloatingPointError, match="stage s, step 0"):
        run_stage(
            model, STAGE, lambda step: (model(torch.full((1, 3), torch.nan)).sum(), {}), tmp_path
        )


def test_learning_rate() -> None:
    assert STAGE.rate_at(0) == pytest.approx(2e-3)
    assert STAGE.rate_at(4) == STAGE.rate_at(24) == pytest.approx(1e-2)
    assert STAGE.rate_at(37) == pytest.approx(5e-3, rel=0.1)
    assert STAGE.rate_at(49) < 1e-4


def test_a_gradient_that_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    model = make_model()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        nothing = model[0].weight.sum() * 0  # its root is 0, and the root's gradient infinite
        return nothing.sqrt() if step == 2 else nothing + model[0].bias.square().sum(), {}

    with pytest.raises(FloatingPointError, match=r"stage s, step 2: gradient's norm is (nan|inf)"):
        run_stage(model, STAGE, loss_at, tmp_path, save_every_s=0)
    assert all(p.isfinite().all() for p in model.parameters())


def run_to(stop: int | None, folder: Path) -> nn.Sequential:
    model = make_model()
    if stop is None:
        run_stage(model, STAGE, make_loss(model), folder, save_every_s=0)
        return model
    with pytest.raises(Stopped):
        run_stage(model, STAGE, make_loss(model, stop), folder, save_every_s=0)
    return model


@pytest.mark.parametrize("damage", [b"", b"half", b"PK\x03\x04", None])
def test_the_last_complete_state_wins(
    tmp_path: Path, damage: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    expected = run_to(None, whole)
    run_to(30, parts)
    state = parts / "s.pt"
    state.write_bytes(state.read_bytes()[:1000] if damage is None else damage)
    with (parts / "log.jsonl").open("ab") as file:
        file.write(b'{"stage": "s", "st')
    resumed: list[int] = []
    model = make_model()
    loss = make_loss(model)
    run_stage(
        model,
        STAGE,
        lambda step: resumed.append(step) or loss(step),
        parts,
        save_every_s=0,
    )
    assert resumed[0] == 29  # one step before the damaged state's
    assert f"{state}: not complete" in capsys.readouterr().out
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    steps = [json.loads(line)["step"] for line in (parts / "log.jsonl").read_bytes().splitlines()]
    assert steps == [20, 40, 50]


def test_without_any_complete_state_a_stage_starts_again(tmp_path: Path) -> None:
    run_to(30, tmp_path)
    for state in tmp_path.glob("*.pt"):
        state.write_bytes(b"")
    assert torch.equal(run_to(None, tmp_path)[0].weight, run_to(None, tmp_path)[0].weight)
    assert json.loads((tmp_path / "log.jsonl").read_bytes().splitlines()[-1])["step"] == 50
