"""The judge, the features and the t-SNE, on the phantoms and on plain shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from fulora.classify.training import predict
from fulora.data.phantoms import spanish_like
from fulora.errors import InputError
from fulora.evaluate.features import choose_features, features_from_classifier, inception_features
from fulora.evaluate.judge import JudgeConfig, as_rgb, train_judge
from fulora.evaluate.tsne import SourceFeatures, embed_planes

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def small():
    """A judge of few phantoms: better than chance, not to be trusted."""
    learn = spanish_like(150, seed=1, resolution_px=64)
    test = spanish_like(40, seed=2, resolution_px=64)
    settings = JudgeConfig(epochs=3, least_accuracy=100.0)
    judge = train_judge(
        learn.images, learn.planes, config=settings, seed=0, heldout=(test.images, test.planes), device="cpu"
    )
    return judge, test


def test_judge_says_how_good_it_is(small) -> None:
    judge, test = small
    assert judge.name == "ResNet18 judge (trained on 150 Spanish-like phantoms)"
    assert judge.heldout_accuracy > 35 and judge.num_heldout == 40
    assert not judge.trusted or judge.heldout_accuracy == 100
    guesses = predict(judge.model, as_rgb(test.images), device="cpu").argmax(axis=1)
    assert 100 * (guesses == test.planes).mean() == pytest.approx(judge.heldout_accuracy)
    assert np.array_equal(as_rgb(as_rgb(test.images)), as_rgb(test.images))


@pytest.mark.slow
def test_judge_of_2000_phantoms_is_97_percent_right() -> None:
    learn, test = spanish_like(2000, seed=1, resolution_px=64), spanish_like(500, seed=2, resolution_px=64)
    judge = train_judge(
        learn.images, learn.planes, config=JudgeConfig(), seed=0, heldout=(test.images, test.planes), device="cpu"
    )
    assert judge.heldout_accuracy >= 97 and judge.trusted


def test_judge_configuration_faults() -> None:
    assert JudgeConfig().validate() == []
    assert len(JudgeConfig(num_images=0, epochs=0).validate()) == 2


def test_features_of_a_classifier(small) -> None:
    judge, test = small
    extractor = features_from_classifier(judge.model, judge.name)
    features = extractor(as_rgb(test.images))
    assert features.shape == (40, 512) and features.dtype == np.float32
    with torch.inference_mode():
        head = judge.model.fc(torch.from_numpy(features)).argmax(1).numpy()
    assert 100 * (head == test.planes).mean() == pytest.approx(judge.heldout_accuracy)
    assert extractor(as_rgb(test.images[:0])).shape == (0, 512)


def test_inception_from_a_torchvision_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    theirs = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    file = tmp_path / "inception_v3_google-0cc3c7bd.pth"
    torch.save(theirs.state_dict(), file)
    ours = inception_features(tmp_path)
    assert ours is not None and "Inception v3" in ours.name and "folder" in ours.name
    logits = inception_features(tmp_path, output="logits")
    assert logits is not None and "1000 logits at 224 px" in logits.name
    small = np.random.default_rng(1).integers(0, 255, (1, 224, 224, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(small).permute(0, 3, 1, 2) / 127.5 - 1)
    np.testing.assert_allclose(logits(small), expected.numpy(), rtol=1e-3, atol=1e-4)
    theirs.fc = torch.nn.Identity()
    images = np.random.default_rng(0).integers(0, 255, (1, 299, 299, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    np.testing.assert_allclose(ours(images), expected.numpy(), rtol=1e-3, atol=1e-4)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    with pytest.raises(InputError, match="does not fit Inception v3"):
        inception_features(tmp_path)


def test_fallback_where_there_is_no_inception(small, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    fallback = features_from_classifier(small[0].model, small[0].name)
    assert choose_features(tmp_path, fallback) is fallback


def blobs(num: int, centre: float, seed: int) -> SourceFeatures:
    rng = np.random.default_rng(seed)
    ids = [f"{centre}/{row}" for row in range(num)]
    return SourceFeatures(rng.normal(centre, 1, (num, 16)).astype(np.float32), np.arange(num) % 5, ids)


def test_tsne_takes_35_of_each_and_keeps_sources_apart() -> None:
    sources = {"spanish": blobs(200, 0, 0), "synthetic": blobs(200, 9, 1)}
    made = embed_planes(sources, seed=0, planes=("brain",))
    assert len(made.rows) == 70 and made.notes == []
    places = {name: np.array([(row["x"], row["y"]) for row in made.rows if row["source"] == name]) for name in sources}
    gap = np.linalg.norm(places["spanish"].mean(0) - places["synthetic"].mean(0))
    assert gap > 2 * max(place.std(0).max() for place in places.values())
    shuffled = np.random.default_rng(5).permutation(200)
    features, planes, ids = sources["spanish"]
    sources["spanish"] = SourceFeatures(features[shuffled], planes[shuffled], [ids[row] for row in shuffled])
    assert embed_planes(sources, seed=0, planes=("brain",)).rows == made.rows


def test_tsne_says_where_there_are_fewer() -> None:
    made = embed_planes({"spanish": blobs(25, 0, 0), "african": blobs(2, 3, 1)}, seed=0)
    assert {row["plane"] for row in made.rows} == {"abdomen", "brain", "femur", "thorax"}
    african = "there are fewer african ones: abdomen 1, brain 0, femur 0, thorax 0"
    assert f"t-SNE uses 35 images per source and plane; {african}" in made.notes
    few = embed_planes({"african": blobs(10, 3, 1)}, seed=0, planes=("thorax",))
    assert few.rows == [] and any("left out" in note for note in few.notes)
