"""`puna chat --image`, `/image`, `Model.chat` with images: what is shown decides the answer."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from puna.agents.model import load as load_model
from puna.core.errors import UserError
from puna.envs.scenes.drawing import Thing, draw, png
from puna.models import VisionConfig, build, preset, save
from puna.text.tokenizer import Tokenizer

pytest.importorskip("PIL")
EYES = VisionConfig(16, 1, 2, tile_size=32, patch_size=8, adapter_size=16, max_tiles=2)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.core.threads.default_threads", lambda: 1)


def directory_of(root: Path, eyes: bool) -> Path:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["what is there"], 300, tiling=EYES.tiling if eyes else None)
    shape = preset("nano", vocab_size=tokenizer.vocab_size, tie_embeddings=False)
    if eyes:
        shape = replace(shape, vision=replace(EYES, patch_id=tokenizer.special("patch")))
    model = build(shape, seed=4)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
        assert model.head is not None
        model.head.weight[97:] = 0.0  # letters only, so that it never falls silent
    save(model, root)
    tokenizer.save(root)
    return root


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = directory_of(tmp_path_factory.mktemp("seeing"), eyes=True)
    for i, colour in enumerate(("red", "blue")):
        things = [Thing(colour, "square", place) for place in range(9)]
        (root / f"{colour}.png").write_bytes(png(draw(things, i)))
    return root


def chat(directory: Path, typed: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "puna.cli", "chat", str(directory), "--max-tokens", "12"]
    return subprocess.run(
        [*command, *options], input=typed, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip


def test_the_first_prompt_shows_the_image_and_so_does_the_command(seeing: Path) -> None:
    red, blue = (str(seeing / f"{c}.png") for c in ("red", "blue"))
    typed = f"what?\n/reset\n/image {red}\nwhat?\n/reset\n/image {blue}\nwhat?\n/reset\nwhat?\n"
    typed += f"/image {seeing}/absent.png\n"
    done = chat(seeing, typed, "--image", red)
    assert (done.returncode, done.stderr) == (0, "")
    said = [line.lstrip("> ") for line in done.stdout.splitlines() if line.startswith("> ")]
    first, shown, again, shown_too, other, none, complaint = said[:7]
    assert shown == shown_too == "shown with the next prompt"
    assert first == again
    assert len({first, other, none}) == 3
    assert complaint.startswith("cannot read the image")


def test_mistakes_are_one_line(seeing: Path, tmp_path: Path) -> None:
    done = chat(seeing, "", "--image", str(tmp_path / "absent.png"))
    assert done.returncode == 2
    assert done.stderr.startswith("puna: cannot read the image")
    assert done.stderr.count("\n") == 1
    plain = directory_of(tmp_path, eyes=False)
    done = chat(plain, "", "--image", str(seeing / "red.png"))
    assert done.returncode == 2
    assert "reads no images" in done.stderr


def test_the_library_answers_about_images_too(seeing: Path, tmp_path: Path) -> None:
    model = load_model(seeing)

    def ask(name: str) -> str:
        content = [
            {"type": "image_url", "image_url": {"url": str(seeing / name)}},
            {"type": "text", "text": "what?"},
        ]
        return model.chat([{"role": "user", "content": content}], max_tokens=12).text

    assert ask("red.png") == ask("red.png") != ask("blue.png")
    with pytest.raises(UserError, match="cannot read the image"):
        ask("absent.png")
    blind = load_model(directory_of(tmp_path, eyes=False))
    content = [{"type": "image_url", "image_url": {"url": str(seeing / "red.png")}}]
    with pytest.raises(UserError, match="reads no images"):
        blind.chat([{"role": "user", "content": content}])
