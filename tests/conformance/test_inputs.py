"""Calibration inputs: one contract for every source, and every way not to fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_mdp.errors import InputError, MdpError, OptionError
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import InputsLike, Reading, load_inputs
from tests.inputs.sources import COUNT, IMAGE, images, labels, write_images, write_sources

FIXED = InputSpec("x", np.dtype(np.float32), (3, 8, 8), 4)
OPEN = InputSpec("x", np.dtype(np.float32), (3, None, None), None)
BYTES = InputSpec("x", np.dtype(np.uint8), (8, 8, 3), None)
TOKENS = InputSpec("ids", np.dtype(np.int64), (5,), 2)
SOURCES: dict[str, tuple[InputsLike, str | None]] = {
    "npz": ("x.npz", None),
    "compressed npz": ("packed.npz", None),
    "npy": (Path("x.npy"), None),
    "fortran": ("fortran.npy", None),
    "array": (images, None),
    "mapping": ({"x": images.astype(np.float64)}, None),
    "folder": ("images", "raw"),
    "function": ("given:singles", None),
    "function of batches": ("given:batches", None),
    "iterable class": ("given:Data", None),
    "function object": (lambda: iter(images), None),
    "synthetic": ("synthetic", None),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with every source in it."""
    monkeypatch.chdir(tmp_path)
    write_sources(tmp_path)
    yield tmp_path
    sys.modules.pop("given", None)


@pytest.fixture(params=SOURCES)
def load(request: pytest.FixtureRequest, here: Path) -> Callable[..., Inputs]:
    """Loads one source; keywords are those of `Reading`."""
    source, preprocess = SOURCES[request.param]

    def loaded(spec: InputSpec = IMAGE, **fields: Any) -> Inputs:
        return load_inputs(source, (spec,), Reading(**{"preprocess": preprocess, "samples": COUNT, **fields}))

    loaded.in_order = request.param in ("function", "function of batches", "iterable class", "function object")  # type: ignore[attr-defined]
    loaded.labelled = request.param != "synthetic"  # type: ignore[attr-defined]
    return loaded


def samples(inputs: Inputs, batch: int | None = None) -> np.ndarray:
    return np.concatenate([feeds["x"] for feeds in inputs.batches(batch)])


def test_every_sample_comes_once_and_in_the_same_order(load: Callable[..., Inputs]) -> None:
    inputs = load()
    found = samples(inputs)
    assert inputs.count == len(found) == COUNT
    assert len(np.unique(found, axis=0)) == COUNT
    assert len(list(inputs.batches())) == inputs.steps
    assert np.array_equal(found, samples(inputs))
    assert np.array_equal(found, samples(load()))
    assert np.array_equal(found, samples(inputs, batch=3))
    assert [len(feeds["x"]) for feeds in inputs.batches(6)] == [6, 4]
    assert all(feeds["x"].dtype == np.float32 and feeds["x"].flags.c_contiguous for feeds in inputs.batches())


def test_first_and_parts_are_those_of_the_whole(load: Callable[..., Inputs]) -> None:
    inputs = load()
    found = samples(inputs)
    assert inputs.sample_shapes == {"x": (3, 8, 8)}
    assert np.array_equal(inputs.first()["x"], found[:1])
    assert np.array_equal(inputs.first(3)["x"], found[:3])
    with pytest.raises(InputError, match="holds 10 samples, one run takes 11"):
        inputs.first(COUNT + 1)
    parts = [inputs.take(0, 7), inputs.take(7, COUNT)]
    assert [part.count for part in parts] == [7, 3]
    assert np.array_equal(np.concatenate([samples(part) for part in parts]), found)
    assert np.array_equal(samples(inputs.take(2, 9).take(1, 3)), found[3:5])


def test_a_fixed_batch_is_honoured(load: Callable[..., Inputs]) -> None:
    inputs = load(FIXED)
    assert inputs.count == 8
    assert inputs.batch == 4
    assert [len(feeds["x"]) for feeds in inputs.batches(3)] == [4, 4]
    assert inputs.take(0, 7).count == 4


def test_fewer_samples_are_a_seeded_choice(load: Callable[..., Inputs]) -> None:
    whole = samples(load())
    found = samples(load(samples=4))
    assert len(found) == 4
    assert np.array_equal(found, samples(load(samples=4)))
    if not load.in_order:  # type: ignore[attr-defined]
        assert not np.array_equal(found, samples(load(samples=4, seed=1)))
    if load.labelled:  # type: ignore[attr-defined]
        assert all((whole == sample).all(axis=(1, 2, 3)).any() for sample in found)
    with pytest.raises(OptionError, match="--samples 0: must be 1 or more"):
        load(samples=0)


def test_labels_go_with_their_samples(load: Callable[..., Inputs]) -> None:
    if not load.labelled:  # type: ignore[attr-defined]
        with pytest.raises(OptionError, match="synthetic inputs have none"):
            load(labels=labels)
        return
    numbers = np.arange(COUNT)
    inputs = load(labels=numbers)
    by_label = dict(zip(inputs.labels.tolist(), samples(inputs), strict=True))  # type: ignore[union-attr]
    assert sorted(by_label) == list(numbers)
    for part in (inputs.take(4, 9), load(labels=numbers, samples=4, seed=3), load(FIXED, labels=numbers)):
        assert part.labels is not None
        assert len(part.labels) == part.count
        for label, sample in zip(part.labels.tolist(), samples(part), strict=True):
            assert np.array_equal(by_label[label], sample)
    with pytest.raises(InputError, match="9 labels for 10 samples"):
        load(labels=numbers[:9])


def test_all_arrays_come_in_their_order(here: Path) -> None:
    for source in ("x.npz", "packed.npz", "x.npy", "fortran.npy", images, {"x": images}):
        assert np.array_equal(samples(load_inputs(source, (IMAGE,))), images)
    for source in ("given:singles", "given:batches", "given:Data"):
        assert np.array_equal(samples(load_inputs(source, (IMAGE,))), images)


def test_float64_is_converted() -> None:
    assert load_inputs(images.astype(np.float64), (IMAGE,)).first()["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"y": images}, "has y; the model's inputs are x"),
        ({}, "lacks x"),
        ({"x": images[:, :2]}, r"is 10x2x8x8, the model takes Nx3x8x8"),
        ({"x": images[0]}, "the model takes Nx3x8x8"),
        ({"x": images[:0]}, "holds 0 samples"),
        ({"x": images.astype(np.uint8)}, "is uint8, the model takes float32"),
        ("absent.npz", "absent.npz: no such file"),
        ("absent", "absent: no such file"),
        ("text.npz", "not a readable"),
        ("cut.npz", "not a readable"),
        ("cut.npy", "not a readable"),
        ("objects.npy", "not a readable"),
        ("empty", "no image in it or a folder below|no image in this folder"),
        ("broken", r"none of 1 images can be read: a\.png \(is no image\)"),
        ("given:absent", "module 'given' has no 'absent'"),
        ("absent:f", "no module 'absent' here or installed"),
        ("given:number", "is a int; name a function"),
        ("given:fails", r"given:fails: ZeroDivisionError: division by zero, at .*given\.py:13$"),
        ("given:nothing", "yields nothing"),
        ("given:shapeless", "sample 0: 'x' is 8x8, the model takes Nx3x8x8"),
        ("given:doubtful", "sample 0: (yields|has) y; the (model's )?inputs are x"),
        ("syntax:f", r"SyntaxError: .*syntax\.py, line 1"),
        ("needs:f", "No module named 'absent_too'.*, at .*needs.py:2"),
        ("leaves:f", r"SystemExit: 3, at .*leaves\.py:2"),
        (lambda: 5, "TypeError: 'int' object is not iterable"),
        (lambda: [images[0].astype(np.uint8)], "is uint8, the model takes float32: convert it"),
        (lambda: [{"x": images}, {"x": images[:0]}], "above 0"),
    ],
)
def test_what_does_not_fit_is_named(here: Path, source: InputsLike, message: str) -> None:
    (here / "text.npz").write_text("no archive")
    (here / "cut.npz").write_bytes((here / "x.npz").read_bytes()[:3000])
    (here / "cut.npy").write_bytes((here / "x.npy").read_bytes()[:3000])
    np.save(here / "objects.npy", np.array([None, {}]), allow_pickle=True)
    (here / "empty").mkdir()
    (here / "broken").mkdir()
    (here / "broken" / "a.png").write_text("no image")
    (here / "syntax.py").write_text("def f(:")
    (here / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (here / "needs.py").write_text("def f():\n    import absent_too\n")
    reading = Reading("raw") if source in ("empty", "broken") else None
    with pytest.raises(InputError, match=message):
        load_inputs(source, (IMAGE,), reading)


def test_open_sizes_are_settled_by_the_first_sample() -> None:
    assert load_inputs(images, (OPEN,)).sample_shapes == {"x": (3, 8, 8)}
    assert load_inputs(lambda: images, (OPEN,)).sample_shapes == {"x": (3, 8, 8)}
    with pytest.raises(InputError, match="sample 1 is 3x7x8, those before it 3x8x8"):
        load_inputs(lambda: [images[0], images[1, :, 1:]], (OPEN,))
    with pytest.raises(InputError, match=r"input 'x' is Nx3x\?x\?; give its size: --shape x:1x3x224x224"):
        load_inputs("synthetic", (OPEN,))


def test_several_inputs_need_names_and_equal_counts(here: Path) -> None:
    both = (IMAGE, TOKENS)
    ids = np.zeros((COUNT, 5), np.int64)
    for source in (images, lambda: images, "images"):
        with pytest.raises(InputError, match=r"give a \.npz with all|yield a dict|give a \.npz"):
            load_inputs(source, both, Reading("raw") if isinstance(source, str) else None)
    with pytest.raises(InputError, match="different numbers of samples"):
        load_inputs({"x": images, "ids": ids[:4]}, both)
    with pytest.raises(InputError, match="one number of samples"):
        load_inputs(lambda: [{"x": images, "ids": ids[:4]}], both)
    loaded = load_inputs(lambda: [{"x": images, "ids": ids}], both)
    assert [len(feeds["ids"]) for feeds in loaded.batches()] == [2] * 5
    assert set(np.unique(load_inputs("synthetic", both, Reading(samples=20)).first(2)["ids"])) == {0, 1}
    np.savez("both.npz", x=images, ids=ids)
    assert load_inputs("both.npz", both).count == COUNT


def test_a_function_is_called_once_and_no_further_than_needed() -> None:
    calls: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            calls.append(1)
            yield np.random.default_rng().normal(size=(3, 8, 8)).astype(np.float32)

    inputs = load_inputs(endless, (IMAGE,), Reading(samples=5, labels=np.arange(7)))
    assert np.array_equal(samples(inputs), samples(inputs))
    assert len(calls) == inputs.count == 5


def test_no_nan_gets_through() -> None:
    with pytest.raises(InputError, match="'x': NaN in samples 4 to 7; leave them out"):
        samples(load_inputs(np.where(images == images[5, 0, 0, 0], np.float32(np.nan), images), (IMAGE,)))


def test_the_path_is_left_as_it_was(here: Path) -> None:
    before = list(sys.path)
    load_inputs("given:singles", (IMAGE,))
    assert sys.path == before


def test_folders_need_to_be_told_how(here: Path) -> None:
    with pytest.raises(OptionError, match="a folder of images needs --preprocess: imagenet, inception, .*, or fields"):
        load_inputs("images", (IMAGE,))
    for source in (images, "x.npz", "given:singles"):
        with pytest.raises(OptionError, match="--preprocess raw: is for --inputs of a folder"):
            load_inputs(source, (IMAGE,), Reading("raw"))
        with pytest.raises(OptionError, match="--labels folders: is for --inputs of a folder"):
            load_inputs(source, (IMAGE,), Reading(labels="folders"))


def test_images_are_chosen_by_seed_and_labelled_by_folder(here: Path) -> None:
    inputs = load_inputs("images", (IMAGE,), Reading("raw", "folders"))
    numbers = samples(inputs)[:, 0, 0, 0].astype(int)
    assert sorted(numbers) == list(range(COUNT))
    assert list(numbers) != sorted(numbers)
    assert np.array_equal(inputs.labels, numbers % 3)  # type: ignore[arg-type]
    by_name = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]  # folder by folder
    given = load_inputs("images", (IMAGE,), Reading("raw", by_name))
    assert np.array_equal(given.labels, numbers)  # type: ignore[arg-type]
    (here / "images" / "loose.png").write_bytes((here / "images" / "a" / "0000.png").read_bytes())
    with pytest.raises(InputError, match=r"loose\.png lies in no folder of a class"):
        load_inputs("images", (IMAGE,), Reading("raw", "folders"))


def test_unreadable_images_are_named_and_replaced(here: Path) -> None:
    whole = (here / "images" / "a" / "0003.png").read_bytes()
    for number in (0, 3, 6, 9):
        (here / "images" / "a" / f"{number:04}.png").write_bytes(whole[:60] if number else b"")
    (here / "images" / "notes.txt").write_text("no image, and not named like one")
    (here / "images" / ".hidden.png").write_text("")
    inputs = load_inputs("images", (IMAGE,), Reading("raw", "folders"))
    assert inputs.count == 6
    assert set(inputs.labels) == {1, 2}  # type: ignore[arg-type]
    (note,) = inputs.notes
    assert "4 cannot be read and are left out: a/0" in note
    assert note.endswith(", ...")
    assert load_inputs("images", (IMAGE,), Reading("raw", samples=6)).count == 6


def test_images_must_fit_the_model(here: Path) -> None:
    with pytest.raises(InputError, match="is 10x3x4x4, the model takes Nx3x8x8; change size or layout"):
        load_inputs("images", (IMAGE,), Reading("unit,size=4"))
    with pytest.raises(InputError, match="is 10x8x8x3, the model takes Nx3x8x8; change size or layout"):
        load_inputs("images", (IMAGE,), Reading("unit,layout=nhwc"))
    with pytest.raises(OptionError, match="the model takes uint8: use raw"):
        load_inputs("images", (BYTES,), Reading("imagenet"))
    pixels = load_inputs("images", (BYTES,), Reading("raw,layout=nhwc")).first()["x"]
    assert pixels.dtype == np.uint8
    write_images(here / "mixed", 1)
    write_images(here / "mixed" / "more", 1, (9, 8))
    with pytest.raises(InputError, match=r"images of sizes .*; add size=224 or the like"):
        load_inputs("mixed", (OPEN,), Reading("raw"))


def test_labels_come_from_files(here: Path) -> None:
    np.save("labels.npy", labels)
    np.savez("labels.npz", y=labels)
    np.savez("two.npz", labels=labels, other=images)
    Path("labels.txt").write_text("\n".join(map(str, labels)))
    for source in ("labels.npy", Path("labels.npz"), "two.npz", "labels.txt", list(labels)):
        found = load_inputs("x.npz", (IMAGE,), Reading(labels=source)).labels
        assert np.array_equal(found, labels)  # type: ignore[arg-type]
    assert np.array_equal(load_inputs("packed.npz", (IMAGE,)).labels, labels)  # type: ignore[arg-type]
    assert load_inputs("x.npz", (IMAGE,)).labels is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.txt", "--labels absent.txt: no such file"),
        ("absent.npy", "--labels absent.npy: no such file"),
        ("x.npy", "x.npy: is float32 10x3x8x8; labels are one integer per sample"),
        ("words.txt", "invalid literal.*'cat'; give a"),
        ("pair.npz", "pair.npz: holds a, b; name the labels 'labels'"),
        (np.zeros(COUNT), "labels: is float64 10"),
    ],
)
def test_labels_that_are_none_are_named(here: Path, source: Any, message: str) -> None:
    Path("words.txt").write_text("0 1 cat")
    np.savez("pair.npz", a=labels, b=labels)
    with pytest.raises(InputError, match=message):
        load_inputs(images, (IMAGE,), Reading(labels=source))


def test_errors_are_ours(here: Path) -> None:
    """Whatever the source raises is an MdpError, but for an interrupt."""

    def interrupted() -> Iterator[np.ndarray]:
        yield images[0]
        raise KeyboardInterrupt

    def refuses() -> Iterator[np.ndarray]:
        raise MdpError("as it is")
        yield images[0]

    with pytest.raises(KeyboardInterrupt):
        load_inputs(interrupted, (IMAGE,))
    with pytest.raises(MdpError, match="^as it is$"):
        load_inputs(refuses, (IMAGE,))
