"""What a user may give as data, and what is said of data that does not fit."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fewbits.data import ImageOptions, open_data
from fewbits.data.batches import Batch, Dataset, concatenate
from fewbits.errors import DataError
from fewbits.graph import Tensor

IMAGE = Tensor("image", "float32", ("N", 3, 4, 4))
IDS = Tensor("ids", "int64", ("N", "sequence"))
MASK = Tensor("mask", "int64", ("N", "sequence"))
POINT = Tensor("x", "float32", ("N", 2))


def images(samples: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, 3, 4, 4)).astype(np.float32)


def all_of(data: Dataset, size: int = 4) -> Batch:
    return concatenate(data.batches(size))


class TestNpz:
    def test_gives_inputs_and_labels_back(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, image=images(), labels=np.arange(6))
        data = open_data(path, [IMAGE])
        assert data.samples == 6
        assert data.has_labels
        assert [batch.samples for batch in data.batches(4)] == [4, 2]
        np.testing.assert_array_equal(all_of(data).inputs["image"], images())
        np.testing.assert_array_equal(all_of(data).labels, np.arange(6))

    def test_labels_are_optional_and_text_paths_serve(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "a.npz", image=images())
        assert not open_data(str(tmp_path / "a.npz"), [IMAGE]).has_labels

    def test_two_inputs(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", ids=np.ones((3, 7), np.int64), mask=np.ones((3, 7), np.int64))
        assert set(all_of(open_data(tmp_path / "a.npz", [IDS, MASK])).inputs) == {"ids", "mask"}

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"there is no file .*none\.npz.*one array per model input"):
            open_data(tmp_path / "none.npz", [IMAGE])

    def test_unknown_text(self) -> None:
        with pytest.raises(DataError, match=r"there is no file or folder nothing.*\.npz.*folder of images"):
            open_data("nothing", [IMAGE])

    def test_not_an_npz(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_text("hello")
        with pytest.raises(DataError, match=r"a\.npz is not an \.npz file.*numpy\.savez"):
            open_data(tmp_path / "a.npz", [IMAGE])

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(b"")
        with pytest.raises(DataError, match=r"is not an \.npz file"):
            open_data(tmp_path / "a.npz", [IMAGE])

    def test_a_single_array_file(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", images())
        with pytest.raises(DataError, match="holds a single array"):
            open_data(tmp_path / "a.npy", [IMAGE])

    @pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
    def test_cut_off(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, image=images(100))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DataError, match="cut off"):
            open_data(path, [IMAGE])

    def test_a_damaged_member(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, image=images(100))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))
        with pytest.raises(DataError, match="'image' is damaged"):
            open_data(path, [IMAGE])

    def test_objects_are_refused_not_unpickled(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", image=np.array([{"a": 1}, None], dtype=object))
        with pytest.raises(DataError, match=r"'image' is refused.*Object arrays.*plain array of numbers"):
            open_data(tmp_path / "a.npz", [IMAGE])

    def test_a_pickle_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(pickle.dumps([1, 2]))
        with pytest.raises(DataError, match=r"is not an \.npz file; write one with"):
            open_data(tmp_path / "a.npz", [IMAGE])

    def test_a_zip_of_something_else(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(DataError, match="'image' is missing"):
            open_data(tmp_path / "a.npz", [IMAGE])


class TestNames:
    def test_missing_and_unknown_say_both_lists_and_the_nearest(self) -> None:
        with pytest.raises(DataError) as caught:
            open_data({"imgae": images()}, [IMAGE])
        message = str(caught.value)
        assert "'image' is missing" in message
        assert "'imgae' is not an input (did you mean 'image'?)" in message
        assert "The model reads 'image'; given: 'imgae'" in message

    @pytest.mark.parametrize("name", ["y", "label", "Labels", "target"])
    def test_labels_by_another_name(self, name: str) -> None:
        with pytest.raises(DataError, match=rf"'{name}' is not an input \(if it holds the labels, name it 'labels'\)"):
            open_data({"image": images(), name: np.arange(6)}, [IMAGE])

    def test_one_of_two_inputs_missing(self) -> None:
        with pytest.raises(DataError, match="'mask' is missing"):
            open_data({"ids": np.ones((3, 7), np.int64)}, [IDS, MASK])

    def test_a_model_input_may_be_called_labels(self) -> None:
        tensor = Tensor("labels", "float32", ("N", 2))
        data = open_data({"labels": np.ones((3, 2), np.float32)}, [tensor])
        assert not data.has_labels
        pair = open_data([(np.ones((3, 2), np.float32), np.arange(3))], [tensor])
        np.testing.assert_array_equal(all_of(pair).labels, np.arange(3))


class TestShapes:
    def test_wrong_rank(self) -> None:
        with pytest.raises(DataError) as caught:
            open_data({"image": np.zeros((5, 48), np.float32)}, [IMAGE])
        assert "input 'image' must have shape (samples, 3, 4, 4); (5, 48) was given: 2 axes instead of 4" in str(
            caught.value
        )

    def test_a_single_sample_without_its_axis(self) -> None:
        with pytest.raises(DataError, match="add an axis of 1 in front"):
            open_data({"image": np.zeros((3, 4, 4), np.float32)}, [IMAGE])

    def test_wrong_fixed_dimension(self) -> None:
        with pytest.raises(DataError, match="axis 3 is 5 instead of 4"):
            open_data({"image": np.zeros((2, 3, 4, 5), np.float32)}, [IMAGE])

    def test_transposed(self) -> None:
        with pytest.raises(DataError, match="look transposed"):
            open_data({"image": np.zeros((2, 4, 4, 3), np.float32)}, [IMAGE])

    def test_the_first_axis_is_samples_even_where_the_model_fixes_it(self) -> None:
        fixed = Tensor("image", "float32", (1, 3, 4, 4))
        assert open_data({"image": images(6)}, [fixed]).samples == 6

    def test_unknown_rank_takes_anything_with_samples(self) -> None:
        free = Tensor("x", "float32", None)
        assert open_data({"x": np.zeros((2, 9), np.float32)}, [free]).samples == 2
        with pytest.raises(DataError, match="no axis for samples"):
            open_data({"x": np.float32(3)}, [free])

    def test_an_input_without_axes(self) -> None:
        with pytest.raises(DataError, match="single value"):
            open_data({"t": np.zeros(3, np.float32)}, [Tensor("t", "float32", ())])

    def test_different_sample_counts(self) -> None:
        with pytest.raises(DataError, match="'ids' has 3, 'mask' has 4"):
            open_data({"ids": np.ones((3, 7), np.int64), "mask": np.ones((4, 7), np.int64)}, [IDS, MASK])

    def test_labels_of_another_count(self) -> None:
        with pytest.raises(DataError, match=r"'labels' has shape \(5,\), but the inputs hold 6 samples"):
            open_data({"image": images(), "labels": np.arange(5)}, [IMAGE])

    def test_empty(self) -> None:
        with pytest.raises(DataError, match="no samples"):
            open_data({"image": images(0)}, [IMAGE])


class TestTypes:
    def test_wider_floats_and_integers_become_floats(self) -> None:
        for given in (np.ones((2, 2)), np.ones((2, 2), np.float16), np.ones((2, 2), np.uint8), np.ones((2, 2), bool)):
            batch = all_of(open_data({"x": given}, [POINT]))
            assert batch.inputs["x"].dtype == np.float32
            np.testing.assert_array_equal(batch.inputs["x"], np.ones((2, 2)))

    def test_integers_narrow_where_all_values_fit(self) -> None:
        narrow = Tensor("ids", "int32", ("N",))
        batch = all_of(open_data({"ids": np.array([-(2**31), 2**31 - 1])}, [narrow]))
        assert batch.inputs["ids"].dtype == np.int32
        with pytest.raises(DataError, match=r"must be int32.*-2147483648 to 2147483647.*reach from 0 to 2147483648"):
            open_data({"ids": np.array([0, 2**31])}, [narrow])

    def test_negative_values_do_not_wrap_into_unsigned(self) -> None:
        with pytest.raises(DataError, match=r"must be uint8.*reach from -1 to 3"):
            open_data({"ids": np.array([-1, 3])}, [Tensor("ids", "uint8", ("N",))])

    def test_large_integers_that_a_float_cannot_hold(self) -> None:
        with pytest.raises(DataError, match=r"must be float32.*every integer from -16777216 to 16777216"):
            open_data({"x": np.array([[2**24 + 1, 0]])}, [POINT])

    def test_floats_never_become_integers(self) -> None:
        with pytest.raises(DataError, match="'ids' must be int64; float32 was given and cannot be converted"):
            open_data({"ids": np.ones((2, 3), np.float32)}, [IDS])

    def test_integer_masks_become_bool_only_from_0_and_1(self) -> None:
        mask = Tensor("mask", "bool", ("N",))
        assert all_of(open_data({"mask": np.array([0, 1])}, [mask])).inputs["mask"].dtype == np.bool_
        with pytest.raises(DataError, match="must be bool"):
            open_data({"mask": np.array([0, 2])}, [mask])

    def test_a_float_too_large_for_the_model(self) -> None:
        with pytest.raises(DataError, match=r"largest value is 65504.*reach from 0 to 100000"):
            open_data({"x": np.array([[0.0, 1e5]])}, [Tensor("x", "float16", ("N", 2))])

    def test_text_and_complex(self) -> None:
        for given in (np.array([["a", "b"]]), np.ones((1, 2), complex)):
            with pytest.raises(DataError, match="must be float32"):
                open_data({"x": given}, [POINT])

    def test_objects(self) -> None:
        with pytest.raises(DataError, match="array of Python objects"):
            open_data({"x": np.array([[None, 1]], dtype=object)}, [POINT])
        with pytest.raises(DataError, match="cannot be read as an array"):
            open_data({"x": [[1.0, 2.0], [1.0]]}, [POINT])

    def test_a_model_type_that_numpy_lacks(self) -> None:
        with pytest.raises(DataError, match="type float8_unheard_of in the model"):
            open_data({"x": np.ones((1, 2))}, [Tensor("x", "float8_unheard_of", ("N", 2))])

    def test_labels_that_are_no_numbers(self) -> None:
        with pytest.raises(DataError, match="'labels' must be numbers"):
            open_data({"x": np.ones((2, 2)), "labels": np.array(["cat", "dog"])}, [POINT])

    @pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
    def test_not_finite_says_which_input_and_sample(self, value: float, name: str) -> None:
        bad = images()
        bad[4, 1, 2, 3] = value
        with pytest.raises(DataError, match=f"input 'image' holds {name}, first in sample 4"):
            open_data({"image": bad}, [IMAGE])

    def test_infinite_float64_is_reported_as_infinite(self) -> None:
        with pytest.raises(DataError, match="'x' holds Inf, first in sample 1"):
            open_data({"x": np.array([[0.0, 0.0], [np.inf, 0.0]])}, [POINT])

    def test_labels_that_are_not_finite(self) -> None:
        with pytest.raises(DataError, match="'labels' holds NaN, first in sample 1"):
            open_data({"x": np.ones((2, 2)), "labels": np.array([0.0, np.nan])}, [POINT])


class TestPython:
    def test_a_generator_is_read_once_and_serves_many_passes(self) -> None:
        data = open_data(((np.full((2, 2), n), np.array([n, n])) for n in range(3)), [POINT])
        for _ in range(2):
            np.testing.assert_array_equal(all_of(data).labels, [0, 0, 1, 1, 2, 2])
        assert [batch.samples for batch in data.batches(4)] == [4, 2]

    def test_single_arrays_mappings_lists_and_batches_as_items(self) -> None:
        one = np.ones((2, 2), np.float32)
        forms: list[object] = [one, {"x": one}, (one,), [one], ({"x": one}, None), Batch({"x": one})]
        for form in forms:
            data = open_data([form], [POINT])
            assert not data.has_labels
            np.testing.assert_array_equal(all_of(data).inputs["x"], one)
        labelled: list[object] = [
            (one, np.arange(2)),
            [one, np.arange(2)],
            ({"x": one}, [0, 1]),
            {"x": one, "labels": np.arange(2)},
            Batch({"x": one}, np.arange(2)),
        ]
        for form in labelled:
            np.testing.assert_array_equal(all_of(open_data([form], [POINT])).labels, [0, 1])

    def test_arrays_at_once(self) -> None:
        x, y = np.ones((3, 2), np.float32), np.arange(3)
        sources = [x, {"x": x, "labels": y}, (x, y), ({"x": x}, y)]
        assert [open_data(source, [POINT]).samples for source in sources] == [3, 3, 3, 3]
        assert [open_data(source, [POINT]).has_labels for source in sources] == [False, True, True, True]

    def test_a_tuple_of_batches_is_not_taken_for_a_pair(self) -> None:
        x, y = np.ones((3, 2), np.float32), np.arange(3)
        assert open_data(((x, y), (x, y)), [POINT]).samples == 6

    def test_the_same_contents_have_the_same_digest_whatever_the_form(self, tmp_path: Path) -> None:
        x, y = images(), np.arange(6)
        np.savez(tmp_path / "a.npz", image=x, labels=y)
        sources = [tmp_path / "a.npz", {"image": x, "labels": y}, [(x[:4], y[:4]), (x[4:], y[4:])], (x[::1], y)]
        assert len({open_data(source, [IMAGE]).digest for source in sources}) == 1
        changed = x.copy()
        changed[5, 0, 0, 0] += 1
        assert open_data((changed, y), [IMAGE]).digest != open_data((x, y), [IMAGE]).digest
        assert open_data(x, [IMAGE]).digest != open_data((x, y), [IMAGE]).digest

    def test_the_digest_is_that_of_the_part(self) -> None:
        data = open_data((images(), np.arange(6)), [IMAGE])
        part = data.take([1, 3])
        again = open_data((images()[[1, 3]], np.array([1, 3])), [IMAGE])
        assert part.digest == again.digest != data.digest

    def test_parts_of_parts(self) -> None:
        data = open_data((images(), np.arange(6)), [IMAGE]).take([5, 3, 1]).take([2, 0])
        np.testing.assert_array_equal(all_of(data).labels, [1, 5])
        np.testing.assert_array_equal(all_of(data).inputs["image"], images()[[1, 5]])

    def test_reading_does_not_let_the_users_arrays_change(self) -> None:
        x = images()
        batch = next(open_data(x, [IMAGE]).batches(4))
        batch.inputs["image"][:] = 0
        np.testing.assert_array_equal(x, images())

    def test_torch_tensors(self) -> None:
        torch = pytest.importorskip("torch")
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.ones(5, 2), torch.arange(5)), batch_size=2
        )
        np.testing.assert_array_equal(all_of(open_data(loader, [POINT])).labels, np.arange(5))

    def test_no_batches(self) -> None:
        with pytest.raises(DataError, match="no batches"):
            open_data(iter(()), [POINT])

    def test_the_faulty_batch_is_named(self) -> None:
        with pytest.raises(DataError, match="batch 1: input 'x' must have shape"):
            open_data([np.ones((2, 2)), np.ones((2, 3))], [POINT])

    def test_labels_in_some_batches_only(self) -> None:
        with pytest.raises(DataError, match="batch 1 has no labels but others have"):
            open_data([(np.ones((2, 2)), np.arange(2)), np.ones((2, 2))], [POINT])

    def test_too_many_parts(self) -> None:
        with pytest.raises(DataError, match=r"has 3 parts; a batch is \(inputs, labels\)"):
            open_data([(np.ones((2, 2)), np.arange(2), np.arange(2))], [POINT])

    def test_a_single_array_for_two_inputs(self) -> None:
        with pytest.raises(DataError, match="ndarray given for the inputs 'ids', 'mask'"):
            open_data([np.ones((2, 2))], [IDS, MASK])

    @pytest.mark.parametrize("source", [3, None, b"bytes"])
    def test_what_is_no_data(self, source: object) -> None:
        with pytest.raises(DataError, match="cannot be read as data"):
            open_data(source, [POINT])  # type: ignore[arg-type]

    def test_a_generator_that_raises(self) -> None:
        def batches() -> object:
            yield np.ones((2, 2))
            raise KeyError("lost")

        with pytest.raises(DataError, match="raised KeyError: 'lost'") as caught:
            open_data(batches(), [POINT])
        assert isinstance(caught.value.__cause__, KeyError)

    def test_image_options_for_other_data(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=np.ones((2, 2)))
        for source in (tmp_path / "a.npz", np.ones((2, 2))):
            with pytest.raises(DataError, match="folder of images only"):
                open_data(source, [POINT], images=ImageOptions())


class TestRagged:
    def sentences(self) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        widths = [(2, 5), (3, 5), (2, 7)]
        return [
            ({"ids": np.full((n, w), w), "mask": np.ones((n, w), np.int64)}, np.full(n, index))
            for index, (n, w) in enumerate(widths)
        ]

    def test_batches_hold_samples_of_one_width(self) -> None:
        data = open_data(self.sentences(), [IDS, MASK])
        assert data.samples == 7
        shapes = [batch.inputs["ids"].shape for batch in data.batches(4)]
        assert shapes == [(4, 5), (1, 5), (2, 7)]
        labels = [label for batch in data.batches(2) for label in np.asarray(batch.labels).tolist()]
        assert labels == [0, 0, 1, 1, 1, 2, 2]

    def test_parts_and_digest(self) -> None:
        data = open_data(self.sentences(), [IDS, MASK])
        part = data.take([6, 0])
        assert [batch.inputs["ids"].shape for batch in part.batches(8)] == [(1, 7), (1, 5)]
        assert part.digest == data.take([6, 0]).digest != data.take([0, 6]).digest
        assert open_data(self.sentences(), [IDS, MASK]).digest == data.digest


class TestFunctions:
    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "helper.py").write_text("def ones(n):\n    import numpy\n    return numpy.ones((n, 2))\n")
        (tmp_path / "mine.py").write_text(
            "import numpy as np\nfrom helper import ones\n"
            "def data():\n    yield ones(2), np.arange(2)\n    yield ones(1), np.arange(1)\n"
            "def arrays():\n    return {'x': ones(4)}\n"
        )
        assert open_data(f"{tmp_path}/mine.py:data", [POINT]).samples == 3
        assert open_data(f"{tmp_path}/mine.py:arrays", [POINT]).samples == 4
        assert str(tmp_path) not in sys.path

    def test_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "fewbits_test_module.py").write_text("import numpy\ndef data():\n    yield numpy.ones((2, 2))\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert open_data("fewbits_test_module:data", [POINT]).samples == 2

    def test_no_such_file_module_or_function(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("def data(): ...\nvalue = 3\n")
        with pytest.raises(DataError, match="there is no file"):
            open_data(f"{tmp_path}/other.py:data", [POINT])
        with pytest.raises(DataError, match="importing no_such_module_at_all raised ModuleNotFoundError"):
            open_data("no_such_module_at_all:data", [POINT])
        with pytest.raises(DataError, match="has no function 'dta'; it has data"):
            open_data(f"{tmp_path}/mine.py:dta", [POINT])
        with pytest.raises(DataError, match="'value' is a int, not a function"):
            open_data(f"{tmp_path}/mine.py:value", [POINT])
        with pytest.raises(DataError, match="does not name a function"):
            open_data(f"{tmp_path}/mine.py:", [POINT])

    def test_a_file_named_as_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "only_a_file.py").write_text("def data(): ...\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
        with pytest.raises(DataError, match=r"write only_a_file\.py:"):
            open_data("only_a_file:data", [POINT])

    def test_failing_while_loading_or_called(self, tmp_path: Path) -> None:
        (tmp_path / "broken.py").write_text("1 / 0\n")
        with pytest.raises(DataError, match=r"loading .*broken\.py raised ZeroDivisionError"):
            open_data(f"{tmp_path}/broken.py:data", [POINT])
        (tmp_path / "mine.py").write_text("def data():\n    raise OSError('no disk')\n")
        with pytest.raises(DataError, match=r"mine\.py:data raised OSError: no disk"):
            open_data(f"{tmp_path}/mine.py:data", [POINT])

    def test_a_dataclass_in_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "from __future__ import annotations\nfrom dataclasses import dataclass\nimport numpy\n"
            "@dataclass\nclass Loader:\n    size: int\n"
            "def data():\n    return numpy.ones((Loader(2).size, 2))\n"
        )
        assert open_data(f"{tmp_path}/mine.py:data", [POINT]).samples == 2


class TestOwnDataset:
    def test_batches_are_cast_and_parts_are_taken(self) -> None:
        inner = open_data((np.ones((4, 2)), np.arange(4)), [Tensor("x", "float64", ("N", 2))])
        data = open_data(inner, [POINT])
        assert data.samples == 4
        assert data.digest == inner.digest
        part = all_of(data.take([3, 0]))
        assert part.inputs["x"].dtype == np.float32
        np.testing.assert_array_equal(part.labels, [3, 0])

    def test_what_does_not_fit_is_found_at_once(self) -> None:
        inner = open_data(np.ones((4, 2)), [POINT])
        with pytest.raises(DataError, match="'image' is missing"):
            open_data(inner, [IMAGE])

    def test_an_empty_one(self) -> None:
        inner = open_data(np.ones((4, 2)), [POINT]).take([])
        with pytest.raises(DataError, match="no samples"):
            open_data(inner, [POINT])
