"""experiments/small_teacher.py: rounding and bytes by hand, and the script."""

import copy

import pytest
import torch
from pytest import approx

import common
from experiments import small_teacher as script


def test_rounding_by_hand():
    """4 bits: 7 steps on each side of 0, the largest weight of a channel is 7 of them."""
    weights = torch.tensor([[7.0, 3.4, -1.0], [0.0, 0.0, 0.0], [-14.0, 5.0, 0.9]])
    assert script.round_weights(weights, 4).tolist() == [[7.0, 3.0, -1.0], [0.0, 0.0, 0.0], [-14.0, 4.0, 0.0]]
    many = torch.randn(16, 3, 3, 3)
    for bits in (8, 4):
        error = (script.round_weights(many, bits) - many).abs().flatten(1).amax(1)
        step = many.abs().flatten(1).amax(1) / (2 ** (bits - 1) - 1)
        assert (error <= 0.51 * step).all()


def test_bytes_by_hand():
    model = common.build_model("conv3", 10, 32, 2).eval()
    weights = 2 * 3 * 9 + 2 * (2 * 2 * 9) + 10 * 32
    others = 3 * 2 + 3 * 4 * 2 + 10  # biases, BatchNorm's four, the classifier's bias
    channels = 3 * 2 + 10
    sizes = {bits: script.store(model, bits)[1] for bits in script.BITS}
    assert sizes == {
        32: 4 * (weights + others),
        16: 2 * (weights + others),
        8: weights + 2 * (others + channels),
        4: weights // 2 + 2 * (others + channels),
    }
    same = script.store(model, 32)[0]
    assert common.digest(same.state_dict()) == common.digest(model.state_dict())


@pytest.mark.slow
def test_the_script(in_process, small_teacher, tmp_path):
    words = ("--width", 8, "--ipc", 2, "--images", "random", "--epochs", 2, "--out", tmp_path)
    words += ("--teacher", small_teacher[1].info["file"])
    found = {}
    for bits in (32, 8):
        status, shown, complaint = in_process(script, *words, "--bits", bits)
        assert status == 0, complaint
        found[bits] = shown
    results = [common.load(file) for file in tmp_path.glob("fashion/gift-random-*/result.json")]
    by_bits = {result["teacher"]["bits"]: result for result in results}
    assert by_bits[32]["teacher"]["digest"] == small_teacher[1].info["digest"]
    assert by_bits[32]["teacher"]["accuracy"] == approx(small_teacher[1].info["accuracy"])
    assert by_bits[8]["label_bytes"] < by_bits[32]["label_bytes"] / 3
    assert f"{by_bits[8]['label_bytes']:,} bytes" in found[8].splitlines()[-1]


@pytest.mark.parametrize("options, words", [("--bits 3", "invalid choice: 3"), ("--loss ce", "invalid choice: 'ce'")])
def test_refusals(in_process, tmp_path, options, words):
    status, _, said = in_process(script, *options.split(), "--out", tmp_path)
    assert status == 2 and said.startswith("error: ") and words in said and said.count("\n") == 1


def test_weights_that_are_too_large_for_the_bits_are_refused(fashion, small_teacher):
    model = copy.deepcopy(small_teacher[1].model)
    model.layers["norm"][0].running_var[0] = 1e6  # fp16 ends at 65,504
    with pytest.raises(common.UserError, match="--bits 8: a weight of the teacher is too large for it"):
        script.small_teacher(fashion, common.Teacher(model, {}), 8)
