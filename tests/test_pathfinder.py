"""Pathfinder: official images bit for bit, labels, and refusals."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from golden_data import GOLDEN

from modeling_dlr.tasks import build_task, load_task
from modeling_dlr.tasks.pathfinder_drawing import draw_disc
from modeling_dlr.tasks.pathfinder_sampling import Drawing, Sampler
from modeling_dlr.tasks.pathfinder_settings import CLASSIFICATION, SEGMENTATION

OFFICIAL = json.loads((GOLDEN / "pathfinder.json").read_text(encoding="utf-8"))
ARRAYS = np.load(GOLDEN / "pathfinder.npz")


@pytest.mark.parametrize("resolution", OFFICIAL)
def test_official_images(resolution: str):
    """Images, paths, tips, markers and classes are bit-identical to the official ones, for the same random numbers."""
    official = OFFICIAL[resolution]
    size = int(resolution)
    sampler = Sampler(SEGMENTATION[size], np.random.RandomState(official["seed"]))
    drawings = [sampler.draw() for _ in range(max(map(int, official["rows"])) + 1)]
    task = build_task("pathfinder_segmentation", {"resolution": size})
    paths = np.unpackbits(ARRAYS[f"{resolution}/paths"], axis=-1)
    for place, (index, row) in enumerate(official["rows"].items()):
        drawing = drawings[int(index)]
        assert [list(tip) for tip in drawing.beginnings] == row["origin_tips"]
        assert [list(tip) for tip in drawing.ends] == row["terminal_tips"]
        assert (drawing.connected, drawing.marked) == (row["label"] == 1, row["marked"])
        np.testing.assert_array_equal(drawing.image, ARRAYS[f"{resolution}/images"][place])
        np.testing.assert_array_equal(drawing.paths, paths[place])
        np.testing.assert_array_equal(task.classes(drawing), ARRAYS[f"{resolution}/targets"][place])
    part = slice(size**2 // 2, size**2 // 2 + 4 * size)
    np.testing.assert_array_equal(task.pixels(drawings[0])[part], ARRAYS[f"{resolution}/input"])


@pytest.mark.parametrize("resolution", CLASSIFICATION)
def test_classification_images(resolution: int):
    """Both classes occur; markers are full discs at the ends of the paths."""
    setting = CLASSIFICATION[resolution]
    sampler = Sampler(setting, np.random.RandomState(0))
    drawings = [sampler.draw() for _ in range(6)]
    assert {drawing.connected for drawing in drawings} == {False, True}
    for drawing in drawings:
        end = drawing.marked if drawing.connected else 1 - drawing.marked
        canvas = np.zeros(drawing.image.shape)
        for tip in (drawing.beginnings[drawing.marked], drawing.ends[end]):
            draw_disc(canvas, setting, tip)
        assert (drawing.image[canvas >= 1] > 0).all()
        assert drawing.image.max() == 255
        assert drawing.paths.any((1, 2)).all()


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    """An image whose markers are on one path."""
    sampler = Sampler(SEGMENTATION[128], np.random.RandomState(OFFICIAL["128"]["seed"]))
    return sampler.draw()


def test_classes(drawing: Drawing):
    """2 on the marked path, 1 on the other, 0 elsewhere; no 2 if the markers are on two paths."""
    task = build_task("pathfinder_segmentation", {})
    assert drawing.connected
    classes = task.classes(drawing)
    assert (classes[drawing.paths[drawing.marked]] == 2).all()
    assert (classes[drawing.paths[1 - drawing.marked] & ~drawing.paths[drawing.marked]] == 1).all()
    assert (classes[~drawing.paths.any(0)] == 0).all()
    apart = task.classes(drawing._replace(connected=False))
    np.testing.assert_array_equal(apart, classes > 0)


def test_autoregressive(drawing: Drawing):
    """The pixels, then as many zeros; only these steps have labels."""
    plain = build_task("pathfinder_segmentation", {}).row(drawing)
    row = build_task("pathfinder_segmentation", {"autoregressive": True}).row(drawing)
    np.testing.assert_array_equal(row["input_values"], np.concatenate((plain["input_values"], np.zeros((128**2, 1)))))
    np.testing.assert_array_equal(row["labels"], np.concatenate((np.full(128**2, -100), plain["labels"])))
    assert row["input_values"].dtype == np.float32


def test_subsets_by_index():
    """An image can be drawn without the earlier ones."""
    task = build_task("pathfinder", {})
    stream = list(load_task("pathfinder", split="test", num_examples=4, seed=3, streaming=True))
    row = next(task.candidates(3, "test", 2))
    np.testing.assert_array_equal(stream[2]["input_values"].numpy(), row["input_values"])
    assert stream[2]["labels"] == row["labels"]


def test_unknown_resolution():
    with pytest.raises(ValueError, match="PathfinderSegmentation needs a resolution of 32, 128, 256, 512, got 64"):
        build_task("pathfinder_segmentation", {"resolution": 64})


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Without OpenCV, the error gives the command that installs it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cv2" else find(name, *rest))
    with pytest.raises(ModuleNotFoundError, match=r"cv2 is not installed: pip install 'modeling-dlr\[tasks\]'"):
        load_task("pathfinder", split="train", num_examples=2, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())
