"""Nothing in a weights file is run; what is no checkpoint, or a damaged one, is refused."""

import io
import pickle
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from weight_data import MODELS, Evil, vit

from medxvl.weights import convert


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("where", ["top", "beside the weights", "among the weights"])
def test_a_malicious_pickle_is_refused(tmp_path, where, modern):
    evil, file = Evil(tmp_path / "made"), tmp_path / "x.pth"
    content = {
        "top": evil,
        "beside the weights": {"model": vit(), "args": evil},
        "among the weights": vit() | {"x": evil},
    }[where]
    torch.save(content, file, _use_new_zipfile_serialization=modern)
    with pytest.raises(
        ValueError,
        match=r"refused, it asks for \w*\.mkdir, where only tensors, numbers and text are let in",
    ):
        convert.convert(file, models=MODELS)
    assert not (tmp_path / "made").exists()
    torch.load(file, weights_only=False)  # the test can fail: read without care, it does run
    assert (tmp_path / "made").exists()


def test_a_bare_malicious_pickle_is_refused(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": Evil(tmp_path / "made")}, protocol))
        with pytest.raises(ValueError, match="x.bin"):
            convert.convert(tmp_path / "x.bin", models=MODELS)
        assert not (tmp_path / "made").exists()


def test_a_whole_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"asks for torch.nn.modules.linear.Linear.*save its state_dict\(\)"
    ):
        convert.convert(tmp_path / "x.pt", models=MODELS)


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{name}", b"")
    with pytest.raises(ValueError, match="a TorchScript archive, which holds a program: not run"):
        convert.convert(tmp_path / "x.pt", models=MODELS)


def test_old_tar_files_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Evil(tmp_path / "made"))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(ValueError, match="PyTorch's own tar files, from before 2017, are not read"):
        convert.convert(tmp_path / "x.pth", models=MODELS)
    assert not (tmp_path / "made").exists()


def test_what_unpacks_to_more_than_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"")
        archive.writestr("x/data/0", bytes(50_000_000))
    with pytest.raises(ValueError, match="unpack to 50,000,000 bytes"):
        convert.convert(tmp_path / "x.pth", models=MODELS)


def test_declared_sizes_beyond_reason(tmp_path):
    torch.save({"a.weight": torch.zeros(1, 1).expand(100_000, 100_000)}, tmp_path / "spread.pth")
    with pytest.raises(
        ValueError, match="refused, it declares 10,000,000,000 numbers; at most 4,000,000,000"
    ):
        convert.convert(tmp_path / "spread.pth", models=MODELS)
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    forged = (
        (tmp_path / "x.pth")
        .read_bytes()
        .replace(b"M\xe8\x03", b"\x8a\x06" + (10**13).to_bytes(6, "little"))
    )
    (tmp_path / "x.pth").write_bytes(
        forged
    )  # a storage of ten thousand billion numbers, of which the file has a thousand
    with pytest.raises(ValueError, match="declares more numbers than fit into memory|damaged"):
        convert.convert(tmp_path / "x.pth", models=MODELS)


def test_a_storage_shorter_than_declared(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as given,
        zipfile.ZipFile(tmp_path / "b.pth", "w") as forged,
    ):
        for entry in given.infolist():
            forged.writestr(
                entry.filename,
                given.read(entry).replace(
                    b"M\xe8\x03", b"\x8a\x06" + (10**13).to_bytes(6, "little")
                ),
            )
    with pytest.raises(ValueError, match="damaged, cut short or no checkpoint"):
        convert.convert(tmp_path / "b.pth", models=MODELS)


@pytest.mark.parametrize(
    "odd", [torch.zeros(2, device="meta"), torch.eye(2).to_sparse()], ids=["meta", "sparse"]
)
def test_tensors_of_other_kinds(tmp_path, odd):
    torch.save({"a.weight": odd}, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match="expected plain tensors, found another kind at a.weight|damaged|refused"
    ):
        convert.convert(tmp_path / "x.pth", models=MODELS)


@pytest.mark.parametrize("content, told", [
    (b"", "the file is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>quota exceeded</html>", "a web page, not weights"),
    (b"\x1f\x8b\x08\x00" + bytes(50), "an archive"),
    (b"PK\x03\x04" + bytes(50), "cut short or damaged"),
    (b"\x80\x02garbage that is no pickle", "refused, it asks for more than plain data, or is "
                                           "damaged"),
    (bytes(range(256)), "found neither"),
    ((10**9).to_bytes(8, "little") + b'{"a":', "found neither"),
    ((5).to_bytes(8, "little") + b'{"a":' + bytes(20), "damaged or cut short"),
], ids=lambda x: None if isinstance(x, bytes) else x)  # fmt: skip
def test_files_that_are_no_weights(tmp_path, content, told):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        convert.convert(tmp_path / "x.bin", models=MODELS)


def test_every_cut_of_a_good_file_is_noticed(tmp_path):
    state = {k: v.contiguous() for k, v in vit().items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth", "c.pth"):
        whole = (tmp_path / name).read_bytes()
        convert.convert(tmp_path / name, models=MODELS)
        for share in (0.001, 0.3, 0.7, 0.9999):
            (tmp_path / "cut").write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(ValueError, match="cut"):
                convert.convert(tmp_path / "cut", models=MODELS)


def test_a_dictionary_without_weights(tmp_path):
    for content, told in (
        ({"epoch": 3}, "expected weights by name, found epoch"),
        ([torch.zeros(2)], "found list"),
    ):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=told):
            convert.convert(tmp_path / "x.pt", models=MODELS)
