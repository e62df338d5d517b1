import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.audit import audit
from medvision.cli.entry import run_command

SHARED = Path(os.environ.get("MEDVISION_DATA", "data")).absolute()
PER_CLASS = {"train": 30, "test": 15}


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the audit in this process: exit code, what it said, and audit.json."""

    def start(*overrides: str) -> tuple[int, str, dict]:
        monkeypatch.setattr(sys, "argv", ["medvision.audit", *map(str, overrides), "out=found"])
        with pytest.raises(SystemExit) as ending:
            run_command("audit", audit)
        said = capfd.readouterr()
        facts = Path("found/audit.json")
        return ending.value.code, said.out + said.err, json.loads(facts.read_text()) if facts.is_file() else {}

    return start


@pytest.fixture
def folder(tmp_path) -> Path:
    """A clean image folder: two classes whose pictures are all different, in splits that are alike."""
    rng = np.random.default_rng(0)
    for split, count in PER_CLASS.items():
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                coarse = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
                picture = cv2.resize(coarse, (90, 80), interpolation=cv2.INTER_CUBIC)
                cv2.imwrite(str(tmp_path / split / name / f"{number:02}.png"), picture)
    return tmp_path


def look(run, folder: Path, *overrides: str):
    return run("data=image_folder", f"data.root={folder}", "data.image_size=64", *overrides)


def counts(facts: dict) -> dict[str, int]:
    return {name: check["count"] for name, check in facts["checks"].items() if check["count"]}


def found(facts: dict, check: str) -> list[list[str]]:
    return [sorted(image["id"] for image in one["images"]) for one in facts["checks"][check]["found"]]


def test_the_digits_are_clean(run):
    code, said, facts = run()
    assert code == 0, said
    assert facts["clean"]
    assert counts(facts) == {}
    assert facts["images"] == 1797
    assert "finding" not in said


def test_a_clean_folder_is_clean(run, folder):
    code, said, facts = look(run, folder)
    assert (code, counts(facts)) == (0, {}), said
    assert facts["balance"]["test"] == {"cat": 15, "dog": 15}
    assert facts["sizes"] == [{"height": 80, "width": 90, "format": "PNG", "mode": "RGB", "files": 90}]


def test_all_that_is_planted_is_found(run, folder):
    """Exact, near and contradictory copies, broken files and empty pictures, each in its place."""

    def read(name: str) -> np.ndarray:
        return cv2.imread(str(folder / name))

    def plant(name: str, picture: np.ndarray, *options: int) -> str:
        assert cv2.imwrite(str(folder / name), picture, options)
        return name

    (folder / "test/cat/exact.png").write_bytes((folder / "train/cat/00.png").read_bytes())
    (folder / "train/dog/twice.png").write_bytes((folder / "train/dog/01.png").read_bytes())
    (folder / "train/dog/other.png").write_bytes((folder / "train/cat/02.png").read_bytes())
    near = {
        plant("test/cat/encoded.jpg", read("train/cat/03.png"), cv2.IMWRITE_JPEG_QUALITY, 60): "train/cat/03.png",
        plant("test/dog/smaller.png", cv2.resize(read("train/dog/04.png"), (50, 44))): "train/dog/04.png",
        plant("test/dog/mirrored.png", read("train/dog/05.png")[:, ::-1]): "train/dog/05.png",
        plant("train/cat/larger.png", cv2.resize(read("test/cat/06.png"), (180, 160))): "test/cat/06.png",
    }
    plant("train/cat/black.png", np.zeros((80, 90, 3), np.uint8))
    (folder / "train/cat/broken.png").write_bytes((folder / "train/cat/07.png").read_bytes()[:200])

    code, said, facts = look(run, folder)

    assert code == 3
    assert found(facts, "across") == [["test/cat/exact.png", "train/cat/00.png"]]
    assert found(facts, "duplicates") == [["train/dog/01.png", "train/dog/twice.png"]]
    assert found(facts, "conflicts") == [["train/cat/02.png", "train/dog/other.png"]]
    assert sorted(found(facts, "near")) == sorted(sorted(pair) for pair in near.items())
    assert found(facts, "constant") == [["train/cat/black.png"]]
    assert [file["path"] for file in facts["quarantine"]] == ["train/cat/broken.png"]
    assert set(counts(facts)) == {"unusable", "across", "conflicts", "duplicates", "near", "constant"}
    assert "finding" in said
    assert "found/audit.html" in said


def test_a_patient_in_two_splits_is_found(run, folder):
    rows = ["image,label,split,group"]
    for file in sorted(folder.rglob("*.png")):
        split, name, number = file.relative_to(folder).with_suffix("").parts
        rows.append(f"{file.relative_to(folder)},{name},{split},{'p7' if number == '07' else f'{split}{name}{number}'}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    code, _, facts = run("data=manifest", f"data.csv={folder / 'cases.csv'}", "data.image_size=64")
    assert (code, counts(facts)) == (3, {"groups": 1})
    assert found(facts, "groups") == [sorted(f"{s}/{c}/07.png" for s in ("train", "test") for c in ("cat", "dog"))]


def test_a_format_that_tells_the_class_is_found(run, folder):
    for file in folder.rglob("dog/*.png"):
        cv2.imwrite(str(file.with_suffix(".jpg")), cv2.imread(str(file)))
        file.unlink()
    code, said, facts = look(run, folder)
    assert (code, counts(facts)) == (3, {"metadata": 1})
    assert facts["guesses"]["metadata"]["alone"]["format"] > 0.95
    assert "AUROC" in said


def test_a_class_that_is_much_rarer_in_test_is_found(run, folder):
    for file in [*sorted(folder.glob("test/dog/*.png"))[1:], *sorted(folder.glob("train/cat/*.png"))[10:]]:
        file.unlink()
    code, _, facts = look(run, folder)
    assert (code, counts(facts)) == (3, {"balance": 1})


def test_dicom_files_are_audited(run, folder):
    pydicom = pytest.importorskip("pydicom")
    source = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
    for split in PER_CLASS:
        (folder / split / "cat" / "scan.dcm").write_bytes(source.read_bytes())
    code, said, facts = look(run, folder)
    assert (code, counts(facts)) == (3, {"across": 1, "groups": 1}), said  # the patient is the group
    assert {"height": 128, "width": 128, "format": "DICOM", "mode": "MONOCHROME2", "files": 2} in facts["sizes"]


class Page(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


EVIL = ["<script>alert(1)<_script>", '"><img src=x onerror=alert(1)>', "'onload='alert(1)", "{{ 7 * 7 }}", "a\nb ü"]


def test_the_page_escapes_names_and_needs_nothing_else(run, folder):
    for split in PER_CLASS:
        (folder / split / "dog").rename(folder / split / EVIL[0])
    first = (folder / "train/cat/00.png").read_bytes()
    for name in EVIL:
        (folder / "test/cat" / f"{name}.png").write_bytes(first)
    (folder / "train/cat" / f"{EVIL[1]}.png").write_bytes(b"broken")
    code, _, facts = look(run, folder)
    assert code == 3

    text = Path("found/audit.html").read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "link", "object", "form"} == set()
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 6
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for name in EVIL:
        assert name in page.words
    assert "49" not in page.words.split("Sizes")[0].split()
    assert re.search(r"(https?:)?//\w", re.sub(r"base64,[^\"]+", "", text)) is None
    assert "Research use only" in page.words
    for words in ("width=device-width", "prefers-color-scheme: dark", "@media print"):
        assert words in text
    assert facts["quarantine"][0]["path"] == f"train/cat/{EVIL[1]}.png"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=image_folder", "data.root=nowhere"], "does not exist"),
        (["data=image_folder"], "data.root is required"),
        (["model=small_cnn"], "model"),
    ],
)
def test_misuse_ends_with_two_and_leaves_nothing(run, overrides, words):
    code, said, _ = run(*overrides)
    assert code == 2
    assert words in said
    assert "Traceback" not in said
    assert list(Path().iterdir()) == []


def test_an_audit_has_a_directory_of_its_own(monkeypatch, capfd, folder):
    arguments = ["data=image_folder", f"data.root={folder}", "data.image_size=64"]
    monkeypatch.setattr(sys, "argv", ["medvision.audit", *arguments])
    for _ in range(2):
        with pytest.raises(SystemExit):
            run_command("audit", audit)
    made = sorted(Path("audits/image_folder").iterdir())
    assert len(made) == 2
    assert all(sorted(file.name for file in one.iterdir()) == ["audit.html", "audit.json"] for one in made)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "brain_mri").is_dir(), reason="needs brain_mri below MEDVISION_DATA")
def test_the_88_identical_files_of_brain_mri(run):
    code, _, facts = run("data=image_folder", f"data.root={SHARED / 'brain_mri'}")
    assert code == 3
    assert "88 as identical files" in facts["checks"]["across"]["text"]
    assert {"across", "near", "metadata", "membership"} <= set(counts(facts))
