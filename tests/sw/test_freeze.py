"""The ONNX file: same bytes in ONNX Runtime, same graph when read back, and what is refused."""

import numpy as np
import onnx
import pytest

from intaglio.freeze import DOMAIN, OnnxExecutor, read_onnx, to_onnx, write_onnx
from intaglio.spec.errors import IntaglioError
from intaglio_sim.random_graph import random_graph, random_input


@pytest.fixture(scope="module")
def graph():
    return random_graph(1, layers=9)


@pytest.mark.parametrize("seed", range(16))
def test_onnx_runtime_gives_the_same_bytes(seed: int, tmp_path) -> None:
    graph = random_graph(seed)
    path = tmp_path / "model.onnx"
    write_onnx(graph, path)
    read = read_onnx(path)
    assert read.digest() == graph.digest()
    x = np.concatenate([random_input(graph, 2 * seed), random_input(graph, 2 * seed + 1)])
    expected = graph.evaluate(x)
    found = OnnxExecutor(graph, path=path, threads=1).run(x)
    assert set(found) == set(graph.values)
    for name in graph.values:
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_one_node_for_each_layer_and_standard_operators_below(graph) -> None:
    model = to_onnx(graph)
    assert [node.name for node in model.graph.node] == [node.name for node in graph.nodes]
    assert {node.domain for node in model.graph.node} == {DOMAIN}
    for function in model.functions:
        assert {node.domain for node in function.node} <= {"", DOMAIN}
    onnx.checker.check_model(model, full_check=True)


def test_same_bytes_twice(graph, tmp_path) -> None:
    for name in ("a", "b"):
        write_onnx(graph, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def change(graph, tmp_path, edit) -> str:
    """Return the error text for a file that ``edit`` has altered."""
    model = to_onnx(graph)
    edit(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(IntaglioError) as caught:
        read_onnx(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def first(model, op):
    return next(node for node in model.graph.node if node.op_type == op)


def test_more_classes_than_a_byte_names(tmp_path) -> None:
    graph = random_graph(1, layers=0, size=8, classes=400)
    write_onnx(graph, tmp_path / "model.onnx")
    assert read_onnx(tmp_path / "model.onnx").digest() == graph.digest()
    onnx.checker.check_model(to_onnx(graph), full_check=True)
    x = random_input(graph, 1)
    found, expected = OnnxExecutor(graph).run(x), graph.evaluate(x)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)
    assert expected[graph.outputs[0]].max() > 255


def test_class_map_that_is_too_narrow_is_refused(tmp_path) -> None:
    few = to_onnx(random_graph(1, layers=0, size=8, classes=9))

    def edit(model):
        first(model, "argmax_wide").op_type = "argmax"
        model.functions.extend(item for item in few.functions if item.name == "argmax")

    graph = random_graph(1, layers=0, size=8, classes=400)
    assert "output must be uint16, not uint8" in change(graph, tmp_path, edit)


def test_truncated_file_is_refused(graph, tmp_path) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(graph, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IntaglioError, match="not a valid ONNX model"):
        read_onnx(path)


def test_missing_file_names_the_command(tmp_path) -> None:
    with pytest.raises(IntaglioError, match="no such file; 'intaglio freeze' makes it"):
        read_onnx(tmp_path / "model.onnx")


def test_unknown_attribute_is_refused(graph, tmp_path) -> None:
    def edit(model):
        first(model, "conv").attribute.append(onnx.helper.make_attribute("groups", 2))

    assert "unknown attribute 'groups'" in change(graph, tmp_path, edit)


def test_missing_attribute_is_refused(graph, tmp_path) -> None:
    def edit(model):
        node = first(model, "conv")
        kept = [item for item in node.attribute if item.name != "dilation"]
        del node.attribute[:]
        node.attribute.extend(kept)

    assert "attribute 'dilation' is missing" in change(graph, tmp_path, edit)


def test_unsupported_operator_is_refused(graph, tmp_path) -> None:
    def edit(model):
        node = first(model, "argmax")
        node.domain, node.op_type = "", "Sigmoid"
        del node.attribute[:]

    assert "unsupported operator ai.onnx.Sigmoid" in change(graph, tmp_path, edit)


def test_overflow_is_refused(graph, tmp_path) -> None:
    def edit(model):
        name = first(model, "conv").input[3]
        for item in model.graph.initializer:
            if item.name == name:
                bias = onnx.numpy_helper.to_array(item).copy()
                bias[0] = (1 << 47) - 1
                item.CopyFrom(onnx.numpy_helper.from_array(bias, name))

    text = change(graph, tmp_path, edit)
    assert "channel 0: acc * m + b can reach" in text and "beyond" in text


def test_changed_body_is_refused(graph, tmp_path) -> None:
    def edit(model):
        for function in model.functions:
            if function.name == "saturate":
                function.node[-1].attribute[0].i = onnx.TensorProto.UINT8

    assert "function saturate: not the body" in change(graph, tmp_path, edit)


def test_altered_weight_is_refused(graph, tmp_path) -> None:
    def edit(model):
        name = first(model, "conv").input[1]
        for item in model.graph.initializer:
            if item.name == name:
                weight = onnx.numpy_helper.to_array(item).copy()
                weight.flat[0] ^= 1
                item.CopyFrom(onnx.numpy_helper.from_array(weight, name))

    assert "the file was altered" in change(graph, tmp_path, edit)


def test_altered_resize_matrix_is_refused(tmp_path) -> None:
    graph = next(g for g in map(random_graph, range(100)) if any(n.op == "resize" for n in g.nodes))

    def edit(model):
        name = first(model, "resize").input[1]
        for item in model.graph.initializer:
            if item.name == name:
                rows = onnx.numpy_helper.to_array(item).copy()
                rows[0, 0] += 1
                item.CopyFrom(onnx.numpy_helper.from_array(rows, name))

    assert "matrices or division are not those of a resize" in change(graph, tmp_path, edit)


def test_failed_write_leaves_the_old_file(graph, tmp_path, monkeypatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_onnx(graph, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
