import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvision.errors import ModelError, RunError
from medvision.inference.decision import Decision
from medvision.inference.triage import label
from medvision.labelling.annotate import annotate, read_annotations, read_embeddings
from medvision.labelling.inputs import Inputs, find_images
from medvision.tasks import Task

NAMES = ("dark", "bright", "=cmd()")
JOB = {"model": "m", "images": "i"}


class Brightness:
    """A model that can be checked by hand: the brighter the image, the likelier `bright`."""

    def __init__(self):
        self.task, self.class_names = Task.classes(NAMES), NAMES
        self.decode = {"size": (16, 12), "channels": 1, "resize": "stretch"}
        self.decision, self.has_embeddings = Decision(), True

    def predict_probs(self, images, batch_size=None):
        return self.probs_and_embeddings(images)[0]

    def probs_and_embeddings(self, images, batch_size=None):
        share = images.mean(axis=(1, 2, 3)) / 255
        return np.stack([0.9 * (1 - share), 0.9 * share, np.full(len(share), 0.1)], axis=1), images[:, 0, 0, :5] / 255


class Stopped(Exception):
    pass


@pytest.fixture
def model():
    return Brightness()


@pytest.fixture
def folder(tmp_path):
    """1,100 images, two of them broken, one with a terrible name."""
    root = tmp_path / "in"
    root.mkdir()
    for number in range(1097):
        Image.fromarray(np.full((12, 10), number % 256, np.uint8)).save(root / f"{number:05}.bmp")
    (root / "00500.5 broken.png").write_bytes(b"\x89PNG")
    (root / "01090.5 empty.jpg").touch()
    Image.fromarray(np.full((12, 10), 200, np.uint8)).save(root / 'we"ird, na\nme <script>.bmp')
    return root


def run(model, folder, out, **settings):
    out.mkdir(exist_ok=True)
    annotate(model, find_images(folder, NAMES), out, JOB, **{"min_confidence": 0.8} | settings)
    return out


def test_every_file_has_a_line_in_order(model, folder, tmp_path):
    out = run(model, folder, tmp_path / "out")
    records = list(read_annotations(out))
    assert [record["image"] for record in records] == list(find_images(folder, NAMES).paths)
    assert len(records) == 1100
    by_name = {Path(record["image"]).name: record for record in records}
    assert by_name["00000.bmp"]["label"] == "dark"
    assert by_name["00255.bmp"]["label"] == "bright"
    assert by_name["00255.bmp"]["probs"] == {"dark": 0.0, "bright": 0.9, "=cmd()": 0.1}
    assert by_name["00128.bmp"]["status"] == "review"
    for name in ("00500.5 broken.png", "01090.5 empty.jpg"):
        assert by_name[name]["status"] == "rejected"
        assert by_name[name]["reason"].startswith("unreadable: ")
        assert by_name[name]["label"] is None
    assert by_name['we"ird, na\nme <script>.bmp']["label"] == "bright"
    assert sorted(path.name for path in out.iterdir()) == ["annotations.jsonl", "job.json"]


@pytest.mark.parametrize("after", [0, 512, 1024, 1100])
def test_a_stopped_job_goes_on_to_the_same_bytes(model, folder, tmp_path, after):
    whole = run(model, folder, tmp_path / "whole", keep_embeddings=True)

    def stop(done, total):
        assert total == 1100
        if done >= after:
            raise Stopped

    with pytest.raises(Stopped):
        run(model, folder, tmp_path / "out", keep_embeddings=True, progress=stop)
    # What a crash may leave: half a line, and embeddings of images whose lines are missing.
    with (tmp_path / "out" / "annotations.partial.jsonl").open("a") as file:
        file.write('{"image": "torn')
    if after < 1100:
        with (tmp_path / "out" / "embeddings.f32").open("ab") as file:
            file.write(b"12345")
    seen = []
    out = run(model, folder, tmp_path / "out", keep_embeddings=True, progress=lambda done, total: seen.append(done))
    assert seen[0] == after
    for name in ("annotations.jsonl", "embeddings.f32", "job.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_embeddings_are_those_of_the_rows(model, folder, tmp_path):
    out = run(model, folder, tmp_path / "out", keep_embeddings=True)
    embeddings = read_embeddings(out, 1100)
    assert embeddings.shape == (1100, 5)
    rows = [record["image"].endswith("00255.bmp") for record in read_annotations(out)]
    np.testing.assert_array_equal(embeddings[rows], np.ones((1, 5)))


def test_a_finished_job_is_left_alone(model, folder, tmp_path):
    out = run(model, folder, tmp_path / "out")
    before = (out / "annotations.jsonl").stat().st_mtime_ns
    run(model, folder, out, progress=lambda done, total: pytest.fail("nothing is to be done"))
    assert (out / "annotations.jsonl").stat().st_mtime_ns == before


def test_the_folder_of_another_job_is_refused(model, folder, tmp_path):
    out = run(model, folder, tmp_path / "out")
    with pytest.raises(RunError, match="of another job: images, model differ"):
        annotate(model, Inputs(("a.png",)), out, {"model": "n", "images": "j"}, min_confidence=0.8)
    (out / "job.json").unlink()
    with pytest.raises(RunError, match=r"holds annotations without job.json"):
        run(model, folder, out)
    (out / "job.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        run(model, folder, out)


def test_originals_are_never_touched(model, folder, tmp_path):
    for path in folder.iterdir():
        path.chmod(0o444)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    run(model, folder, tmp_path / "out")
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_a_name_that_is_no_text_is_a_row(model, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "in" / "good.bmp")
    try:
        (tmp_path / "in" / "good.bmp").rename(tmp_path / "in" / os.fsdecode(b"bad \xff.bmp"))
    except OSError:
        pytest.skip("this file system takes only valid UTF-8")
    (record,) = read_annotations(run(model, tmp_path / "in", tmp_path / "out"))
    assert record["image"].endswith("bad \\xff.bmp")
    assert record["reason"] == "unreadable: its name is not valid UTF-8; rename it"


def test_a_model_without_embeddings_labels_as_well(folder, tmp_path):
    class Plain(Brightness):
        def __init__(self):
            super().__init__()
            self.has_embeddings = False

        def probs_and_embeddings(self, images, batch_size=None):
            raise ModelError("a classical one")

        def predict_probs(self, images, batch_size=None):
            return Brightness().predict_probs(images)

    found, embeddings = label(Plain(), np.zeros((2, 1, 16, 12), np.uint8), 0.8)
    assert embeddings is None
    assert [one.label for one in found] == ["dark", "dark"]


def test_a_full_disk_is_said_and_the_job_goes_on_when_there_is_room(model, folder, tmp_path):
    """The limit on the size of files makes the kernel refuse a write half way, as a full disk does."""
    whole = run(model, folder, tmp_path / "whole")
    limit = (whole / "annotations.jsonl").stat().st_size * 2 // 3
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(RunError, match=r"cannot be written: .*\nWhat is done so far is kept"):
            run(model, folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "out" / "annotations.partial.jsonl").stat().st_size > 0
    out = run(model, folder, tmp_path / "out")
    assert (out / "annotations.jsonl").read_bytes() == (whole / "annotations.jsonl").read_bytes()


def test_truths_stand_beside_the_labels(model, folder, tmp_path):
    paths = find_images(folder, NAMES).paths[:3]
    (tmp_path / "out").mkdir()
    annotate(model, Inputs(paths, ("dark", "", "bright")), tmp_path / "out", JOB, min_confidence=0.8)
    assert [record["truth"] for record in read_annotations(tmp_path / "out")] == ["dark", None, "bright"]


def test_labelling_loads_no_torch():
    modules = ["active_learning", "annotate", "annotations", "inputs", "outputs", "review.page"]
    script = (
        f"import sys, {', '.join(f'medvision.labelling.{name}' for name in modules)}\nprint('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.slow
def test_an_onnx_file_labels_without_torch(onnx_path, folder, tmp_path):
    script = (
        "import sys\nfrom medvision.predict import main\n"
        "try:\n    main()\nexcept SystemExit as ending:\n    print('ended', ending.code, 'torch' in sys.modules)"
    )
    arguments = [f"model={onnx_path}", f"images={folder}", f"out={tmp_path / 'out'}", "select=uncertainty", "k=5"]
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.endswith("ended 0 False\n"), result.stderr
    assert len(list(read_annotations(tmp_path / "out"))) == 1100
    assert "an ONNX file cannot say where it looked" in (tmp_path / "out" / "review.html").read_text(encoding="utf-8")
    assert len((tmp_path / "out" / "to_label.csv").read_text().splitlines()) == 6


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(100):
        Image.fromarray(np.full((12, 10), number, np.uint8)).save(tmp_path / "in" / f"{number}.bmp")
    peaks = {count: _peak(tmp_path, count) for count in (1_000, 20_000)}
    assert peaks[20_000] - peaks[1_000] < 20_000  # kB, of about 150 MB


def _peak(tmp_path: Path, count: int) -> int:
    """Peak resident memory, in kB, of labelling so many files."""
    script = f"""
import json, resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_annotate import Brightness
from medvision.labelling.annotate import annotate
from medvision.labelling.inputs import Inputs
out = Path({str(tmp_path / f"out{count}")!r}); out.mkdir()
paths = tuple(f"{tmp_path}/in/{{number % 100}}.bmp" for number in range({count}))
annotate(Brightness(), Inputs(paths), out, {{}}, min_confidence=0.8, keep_embeddings=True)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)
