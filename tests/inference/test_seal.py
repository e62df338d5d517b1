import hashlib
import json

import pytest

from medvision.errors import BundleError
from medvision.inference.seal import SCHEMA_VERSION, check_seal, read_facts, seal

onnx = pytest.importorskip("onnx")


def metadata(content):
    return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}


@pytest.mark.parametrize("length", [0, 1, 60, 127, 128, 20_000, 3_000_000])
def test_onnx_itself_reads_the_facts_back_whatever_their_length(onnx_content, length):
    graph = onnx.load_from_string(onnx_content[0])
    del graph.metadata_props[:]
    plain = graph.SerializeToString()

    sealed = seal(plain, {"text": "é" * length})

    found = metadata(sealed)
    assert json.loads(found["medvision"]) == {"schema_version": SCHEMA_VERSION, "text": "é" * length}
    assert found["medvision_sha256"] == hashlib.sha256(sealed[: -(64 + len("medvision_sha256") + 6)]).hexdigest()
    assert onnx.load_from_string(sealed).graph == graph.graph
    check_seal(sealed, "model.onnx")


def test_a_sealed_model_is_valid_onnx(onnx_content):
    onnx.checker.check_model(onnx.load_from_string(onnx_content[0]), full_check=True)


def test_a_flipped_bit_anywhere_is_noticed(onnx_content):
    content = onnx_content[0]
    for position in [*range(0, len(content), len(content) // 200), *range(len(content) - 100, len(content))]:
        damaged = bytearray(content)
        damaged[position] ^= 1

        with pytest.raises(BundleError, match=r"model\.onnx"):
            check_seal(bytes(damaged), "model.onnx")


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 1000, -1, -86, -87])
def test_a_file_cut_short_is_noticed(onnx_content, keep):
    with pytest.raises(BundleError, match="not exported by medvision, or it is incomplete"):
        check_seal(onnx_content[0][:keep], "model.onnx")


def test_a_model_that_another_program_changed_and_wrote_again_is_noticed(onnx_content):
    model = onnx.load_from_string(onnx_content[0])
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))

    with pytest.raises(BundleError, match="was changed after it was written"):
        check_seal(model.SerializeToString(), "model.onnx")


def test_facts_that_json_cannot_say_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal(b"", {"temperature": float("nan")})


@pytest.mark.parametrize("facts", [None, "", "[]", "{}", "no JSON", '{"schema_version": "one"}'])
def test_facts_that_are_none_are_refused(facts):
    with pytest.raises(BundleError, match=r"model\.onnx"):
        read_facts({} if facts is None else {"medvision": facts}, "model.onnx")


def test_a_newer_schema_is_refused_with_the_remedy():
    facts = json.dumps({"schema_version": 99, "medvision": "9.1.0"})

    with pytest.raises(BundleError, match=r"written by medvision 9\.1\.0;.*\n?.*Update medvision"):
        read_facts({"medvision": facts}, "model.onnx")
