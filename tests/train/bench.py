"""A mini recipe's model, its loader and the layouts of its steps."""

from __future__ import annotations

from pathlib import Path

import torch

from janus_edge.data.source import open_source
from janus_edge.model.weights import load_checkpoint
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.train.codec import code_shape, take_codec
from janus_edge.train.images import Encoded, Loader
from janus_edge.train.packing import Packed
from janus_edge.train.pieces import Piece
from janus_edge.train.recipe import load_recipe
from janus_edge.train.run import trainee_of
from janus_edge.train.steps import Layout, lay_out

RECIPES = Path(__file__).parent / "recipes"


class Bench:
    """A mini recipe's model and loader, and a laid out step of its second stage."""

    def __init__(self, name: str, start: Path, dataset: Path, folder: Path) -> None:
        self.recipe = load_recipe(RECIPES / f"{name}.toml")
        self.stage = self.recipe.stages[1]
        checkpoint = load_checkpoint(start)
        self.model = checkpoint.model
        self.encoder = PromptEncoder.load(checkpoint.tokenizer_json, self.recipe.template)
        self.data = open_source(dataset).roles
        encode, _ = take_codec(self.model, torch.device("cpu"))
        torch.manual_seed(2)
        for value in self.model.parameters():  # no part of a loss may be zero or tiny by design
            value.data += 0.05 * torch.randn_like(value)
        self.trainee = trainee_of(self.model, self.recipe).eval()
        shape, dtype = code_shape(self.recipe)
        shards = {role: each.shards for role, each in self.data.items()}
        kept = {
            role: Encoded(folder / role, len(shards[role]), shape, dtype)
            for role in ("generation", "class_prompts")
        }
        self.skipped: dict[str, str] = {}
        self.loader = Loader(self.recipe, shards, encode, kept, self.skipped.update)
        self.step = 3

    def layout(self, step: int) -> Layout:
        return lay_out(self.recipe, self.stage, step, self.data, self.encoder)

    def packed(self, rows: list[list[Piece]]) -> Packed:
        return self.loader.load(self.stage, self.step, rows)
