"""Depth encodings: REP 118's two formats, REP 117's special values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mf_ros.core.encoding import decode_depth, encode_depth, encode_sparse, unknown_where, zero_where
from mf_ros.errors import MessageError

NAN, INF = np.nan, np.inf


def test_float_metres_keep_unknown_too_far_and_too_close():
    depth = np.array([[1.5, NAN, INF, -INF]], np.float32)
    array, encoding = encode_depth(depth, "32FC1")
    assert encoding == "32FC1" and array.dtype == np.float32
    np.testing.assert_array_equal(array, depth)
    np.testing.assert_array_equal(decode_depth(array, encoding), depth)


def test_float_metres_never_carry_zero_or_negative_depth():
    depth = np.array([[0.0, -2.0, 3.0]], np.float32)
    np.testing.assert_array_equal(encode_depth(depth, "32FC1")[0], np.float32([[NAN, NAN, 3.0]]))
    np.testing.assert_array_equal(decode_depth(depth, "32FC1"), np.float32([[NAN, NAN, 3.0]]))
    assert depth[0, 0] == 0.0, "the input stays as it was"


def test_float_metres_without_anything_to_correct_are_not_copied():
    depth = np.array([[0.5, NAN, INF]], np.float32)
    assert encode_depth(depth, "32FC1")[0] is depth
    too_close = np.array([[0.5, -INF]], np.float32)
    np.testing.assert_array_equal(encode_depth(too_close, "32FC1")[0], too_close)


def test_sparse_depth_is_unknown_where_there_is_no_return():
    sparse, out = np.array([[0.0, 3.25, -1.0, NAN, 1e-30]], np.float32), np.ones((1, 5), np.float32)
    assert encode_sparse(sparse, out) is out
    np.testing.assert_array_equal(out, np.float32([[NAN, 3.25, NAN, NAN, 1e-30]]))


def test_values_become_unknown_or_zero_where_asked_and_nowhere_else():
    values = np.array([[1.5, -2.0, 0.0, INF, NAN, 1e-40], [7.0, -0.0, 3.0, -INF, NAN, 9.0]], np.float32)
    where = np.array([[True] * 6, [False] * 6])
    out = np.empty_like(values)
    np.testing.assert_array_equal(unknown_where(where, values, out), [[NAN] * 6, values[1]])
    np.testing.assert_array_equal(zero_where(where, values, out), [[0.0] * 6, values[1]])
    assert values[0, 0] == 1.5, "the input stays as it was"


def test_millimetres_are_rounded_and_zero_stands_for_all_that_is_no_depth():
    depth = np.array([[1.2346, 0.0004, 65.535, 65.536, 1e30, NAN, INF, -INF, -1.0, 0.0]], np.float32)
    array, encoding = encode_depth(depth, "16UC1")
    assert encoding == "16UC1" and array.dtype == np.uint16
    assert array.tolist() == [[1235, 0, 65535, 0, 0, 0, 0, 0, 0, 0]]


@given(st.lists(st.floats(2**-9, 65.5, width=32), min_size=1, max_size=50))
def test_millimetres_come_back_within_half_a_millimetre(values):
    depth = np.array([values], np.float32)
    back = decode_depth(*encode_depth(depth, "16UC1"))
    assert back.dtype == np.float32
    # Half a millimetre of rounding, and float32's own steps at 65 m (8 micrometres).
    np.testing.assert_allclose(back, depth, atol=0.00051)


def test_zero_millimetres_decode_to_unknown_in_either_byte_order():
    for order in "<>":
        back = decode_depth(np.array([[0, 2500]], f"{order}u2"), "16UC1")
        np.testing.assert_array_equal(back, np.float32([[NAN, 2.5]]))
        np.testing.assert_array_equal(decode_depth(np.array([[2.5]], f"{order}f4"), "32FC1"), np.float32([[2.5]]))


@pytest.mark.parametrize(("array", "encoding"), [(np.ones((1, 1), np.uint8), "16UC1"), (np.ones((1, 1), int), "32FC1")])
def test_values_of_another_type_than_the_encoding_are_refused(array, encoding):
    with pytest.raises(MessageError, match=f"{encoding} depth image cannot hold"):
        decode_depth(array, encoding)


def test_an_encoding_that_is_not_depth_is_refused():
    for call in (encode_depth, decode_depth):
        with pytest.raises(MessageError, match="'mono8' is not a depth encoding: use 32FC1 or 16UC1"):
            call(np.ones((1, 1), np.float32), "mono8")
