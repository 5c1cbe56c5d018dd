"""What is written is read, damage is found, and nothing in a file is ever run."""

from __future__ import annotations

import ast
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import feynkac as fk
from feynkac.base.errors import ArgumentError, FeynkacError
from feynkac.steering.checkpoints import files, saving
from feynkac.steering.checkpoints.files import read_file, write_file
from feynkac.steering.checkpoints.trees import Reader, Writer

FOLDER = Path(saving.__file__).parent

_leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
    st.just(math.inf), st.sampled_from([np.float64(0.1), np.int32(3), np.bool_(True), np.float32(0.1)]),
)  # fmt: skip
_keys = st.one_of(st.text(), st.integers(), st.tuples(st.text(), st.integers()))
_trees = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(_keys, inner), st.sets(st.integers())
    ),
)


def carry(tree: Any, path: Path, known: dict[str, Any] | None = None) -> Any:
    """A tree that was written and read."""
    writer = Writer(known or {})
    record = writer.write(tree)
    write_file(path, record, writer.tensors)
    record, tensors = read_file(path)
    return Reader(tensors, known or {}).read(record)


@settings(max_examples=60, deadline=None)
@given(tree=_trees)
def test_plain_values_are_read_as_they_were(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = carry(tree, tmp_path_factory.mktemp("trees") / "tree")
    assert tell(found) == tell(tree)


def tell(tree: Any) -> str:
    """A tree with all its types and bits, whatever the order of its sets."""
    if isinstance(tree, set):
        return f"set {sorted(tree)}"
    if isinstance(tree, dict):
        return f"dict {[(tell(key), tell(value)) for key, value in tree.items()]}"
    if isinstance(tree, list | tuple):
        return f"{type(tree).__name__} {[*map(tell, tree)]}"
    return f"{type(tree).__name__} {tree!r}"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3), np.zeros((0, 4)), np.array(2.5), np.array([1, 2], np.uint32),
        np.array([(1, 0.5, True)], dtype=[("a", np.int64), ("b", np.float64), ("c", np.bool_)]),
        np.arange(12.0).reshape(3, 4)[:, ::2], np.array([np.nan, -np.inf, -0.0]), np.array([True, False]),
    ],
)  # fmt: skip
def test_arrays_keep_type_shape_and_bits(array: np.ndarray, tmp_path: Path) -> None:
    found = carry({"array": array}, tmp_path / "tree")["array"]
    assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()
    found[...] = 0  # may be written to


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64])
def test_tensors_keep_type_shape_and_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(12).to(dtype).reshape(3, 4)
    found = carry([tensor, tensor[:, 1:3], tensor.T], tmp_path / "tree")
    for a, b in zip(found, [tensor, tensor[:, 1:3], tensor.T], strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_known_things_are_found_by_their_names(tmp_path: Path) -> None:
    here, there = object(), object()
    writer = Writer({"thing": here})
    assert Reader({}, {"thing": there}).read(writer.write({("x", 1): here})) == {("x", 1): there}


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"state\.x is <object object"):
        Writer({}).write({"state": {"x": object()}})
    with pytest.raises(ArgumentError, match="array of objects"):
        Writer({}).write([np.array([None], dtype=object)])


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    carry({"some": np.arange(40), "text": "abc"}, tmp_path / "run")
    return tmp_path / "run"


def test_a_file_that_is_cut_off_is_refused(whole: Path) -> None:
    data = whole.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        whole.write_bytes(data[:length])
        with pytest.raises(ArgumentError, match="is no checkpoint of feynkac, or it is damaged"):
            read_file(whole)


def test_a_file_with_a_changed_byte_is_refused(whole: Path) -> None:
    data = whole.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(16), *rng.integers(0, len(data), 150).tolist()]:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        whole.write_bytes(bytes(changed))
        try:
            record, tensors = read_file(whole)
        except ArgumentError:
            continue
        # What is not told is of no consequence, such as a blank in the header.
        assert Reader(tensors, {}).read(record)["text"] == "abc"
        assert np.array_equal(Reader(tensors, {}).read(record)["some"], np.arange(40))


class Payload:
    """Runs when it is unpickled."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Payload, "ran", True)


@pytest.mark.parametrize("write", [pickle.dumps, lambda it: b"\x80\x00\x00\x00\x00\x00\x00\x00" + pickle.dumps(it)])
def test_a_pickle_is_refused_and_never_run(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(write(Payload()))
    with pytest.raises(ArgumentError, match="is no checkpoint"):
        fk.resume(path, None)
    torch.save({"x": torch.zeros(1), "payload": Payload()}, path)
    with pytest.raises(ArgumentError, match="is no checkpoint"):
        fk.resume(path, None)
    assert not Payload.ran


def test_nothing_here_can_unpickle() -> None:
    for file in FOLDER.glob("*.py"):
        source = file.read_text(encoding="utf-8")
        tree = ast.parse(source)
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not called & {"load_module", "loads_module", "__reduce__"} and "torch.load" not in source
        assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"eval", "exec", "__import__"}


def test_another_file_of_safetensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "run")
    with pytest.raises(ArgumentError, match="says that it is something else"):
        read_file(tmp_path / "run")


def test_a_record_that_is_none_is_refused(tmp_path: Path) -> None:
    """As somebody may have written it by hand: whole, and of no use."""
    for record, told in (([1, 2], "has no asked"), ({"asked": {}, "options": {}}, "has no often")):
        write_file(tmp_path / "run", record, {})
        with pytest.raises(ArgumentError, match=told):
            fk.resume(tmp_path / "run", None)


def test_another_format_is_refused_by_name(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "VERSION", "9")
    with pytest.raises(ArgumentError, match=r"has format 1, and this feynkac reads format 9"):
        read_file(whole)


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="there is no checkpoint"):
        fk.resume(tmp_path / "none", None)


@pytest.mark.parametrize("fails", ["feynkac.steering.checkpoints.files.save_file", "os.fsync", "pathlib.Path.replace"])
def test_a_writer_that_is_stopped_leaves_the_former_file(
    whole: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on the device")

    before = whole.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(fails, stop)
        with pytest.raises(FeynkacError, match="could not be written: OSError: no space left"):
            carry({"some": 1}, whole)
    assert whole.read_bytes() == before
    assert [*whole.parent.iterdir()] == [whole]
    assert carry({"some": 1}, whole) == {"some": 1}
