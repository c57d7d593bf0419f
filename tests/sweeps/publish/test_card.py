"""The model card of an adapter: its metadata, and code that runs."""

import pytest
import yaml

from sweeps.paths import RunPaths
from sweeps.publish.upload import plan_upload

from .adapters import TO, call, write_adapter


def card_of(run: RunPaths, **changes) -> tuple[dict, str, str]:
    """Return a card's metadata, its text and its lines of Python, of a rank without a row in the table of ranks."""
    write_adapter(run, 4, **changes)
    card = plan_upload(run, to=TO, rank=4).card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    return yaml.safe_load(card.split("---\n")[1]), card, code


@pytest.mark.parametrize("base", ["tiny", "random:sd15"])
def test_a_card_says_when_the_base_is_not_stable_diffusion(run, base):
    about, card, code = card_of(run, base=base)
    assert "This is not Stable Diffusion" in card and f"`{base}`" in card
    assert "base_model" not in about and f'load_base("{base}")' in code


def test_a_card_of_a_hub_base_names_it(run):
    about, card, code = card_of(run, base="someone/sd15", clip_skip=1, text_encoder_rate=5e-5, targets=r".*attn1|ff")
    assert about == {
        "library_name": "diffusers", "pipeline_tag": "text-to-image", "base_model": "someone/sd15",
        "base_model_relation": "adapter", "tags": ["lora", "diffusers", "fetal-ultrasound"],
    }  # fmt: skip
    assert "not Stable Diffusion" not in card
    assert 'from_pretrained("someone/sd15")' in code and f'pipe.load_lora_weights("{TO}"' in code
    assert "num_inference_steps=20, guidance_scale=2.5, clip_skip=1, width=64, height=64" in code
    assert "text encoder: 5e-05" in card and r".*attn1\|ff" in card


@pytest.mark.parametrize(("name", "loader"), [("sd15", "from_pretrained"), ("sd15.safetensors", "from_single_file")])
def test_a_card_does_not_say_where_a_base_lies_on_a_disk(capsys, run, tmp_path, name, loader):
    base = str(tmp_path / "secret" / name)
    about, card, code = card_of(run, base=base)
    assert "secret" not in card and "base_model" not in about
    assert f"| base model | {name} (of the attempt) |" in card and f'{loader}("PATH/TO/{name}")' in code
    code, out, _ = call(capsys, "push", run.root, "--to", TO, "--rank", 4, "--dry-run")
    assert code == 0 and f"trial.json names the base by its path on this machine: {base}" in out
