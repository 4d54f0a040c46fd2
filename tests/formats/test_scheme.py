"""The text of schemes: what is accepted, what is refused, and that the refusal names the choices."""

from dataclasses import replace

import pytest

from fewbits.errors import SchemeError
from fewbits.formats.floating import BF16 as BF16_ELEMENT
from fewbits.formats.floating import FP16 as FP16_ELEMENT
from fewbits.formats.scheme import (
    BF16,
    FP16,
    FP32,
    INT4_BLOCKS,
    INT8_BLOCKS,
    INT8_CHANNEL,
    INT8_DYNAMIC,
    INT8_PAIR,
    INT8_SMOOTHED,
    INT8_STATIC,
    INT8_SYMMETRIC,
    INT8_SYMMETRIC_PAIR,
    INT8_SYMMETRIC_SMOOTHED,
    INT8_TOKENS_SMOOTHED,
    INT8_WEIGHT,
    TF32,
    UINT8_TENSOR,
    Scheme,
)

CODES = (
    INT8_STATIC,
    INT8_SYMMETRIC,
    INT8_PAIR,
    INT8_SYMMETRIC_PAIR,
    INT8_SMOOTHED,
    INT8_SYMMETRIC_SMOOTHED,
)
ALL = (FP32, BF16, FP16, TF32, *CODES, INT8_DYNAMIC, INT8_TOKENS_SMOOTHED, INT8_WEIGHT, INT8_BLOCKS)


def test_short_names() -> None:
    assert Scheme.parse("fp32") == FP32
    assert Scheme.parse("bf16") == BF16
    assert Scheme.parse("fp16") == FP16
    assert Scheme.parse("tf32") == TF32
    assert Scheme.parse("int8") == INT8_STATIC
    assert str(INT8_STATIC) == "w:int8r/channel a:uint8/tensor"


@pytest.mark.parametrize("scheme", [*ALL, INT4_BLOCKS])
def test_the_text_is_read_back(scheme: Scheme) -> None:
    assert Scheme.parse(str(scheme)) == scheme


def test_the_documented_texts() -> None:
    assert str(INT8_DYNAMIC) == "w:int8r/channel a:uint8/tensor dynamic"
    assert str(INT8_WEIGHT) == "w:int8r/channel"
    assert str(INT4_BLOCKS) == "w:int4r/g32@0"
    assert str(BF16) == "bf16"
    assert str(INT8_SMOOTHED) == "w:int8r/channel a:uint8/tensor smoothed"


def test_the_order_of_operands_in_the_text_is_free() -> None:
    assert Scheme.parse("a:uint8/tensor w:int8r/channel") == INT8_STATIC
    assert Scheme.parse("a:uint8/tensor w:int8r/channel dynamic") == INT8_DYNAMIC


def test_every_scheme_is_of_one_sort() -> None:
    for one in ALL:
        assert [one.is_fp32, one.is_cast, one.is_static, one.is_weight_only, one.dynamic].count(True) == 1
    assert [one.sort for one in (FP32, BF16, FP16, INT8_STATIC, INT8_DYNAMIC, INT8_WEIGHT, INT4_BLOCKS)] == [
        *("fp32", "bf16", "fp16", "codes", "dynamic", "stored", "stored")
    ]


def test_only_a_scheme_without_formats_is_fp32() -> None:
    assert FP32.is_fp32
    assert not INT8_STATIC.is_fp32


def test_an_activation_alone_is_no_scheme() -> None:
    with pytest.raises(SchemeError, match="second operand"):
        Scheme(None, UINT8_TENSOR)


def test_a_range_at_every_call_needs_codes() -> None:
    for weight, activation in ((INT8_CHANNEL, None), (BF16_ELEMENT, BF16_ELEMENT), (None, None)):
        with pytest.raises(SchemeError, match="dynamic"):
            Scheme(weight, activation, dynamic=True)


def test_only_what_meets_a_weight_in_codes_is_smoothed() -> None:
    for meant in (Scheme(BF16_ELEMENT, BF16_ELEMENT), Scheme()):
        with pytest.raises(SchemeError, match="beside a weight in codes"):
            replace(meant, smoothed=True)
    alone = Scheme.parse("w:int4r/g32@0 smoothed")
    assert (alone.smoothed, alone.is_weight_only, alone.is_static) == (True, True, False)
    assert Scheme.parse(str(alone)) == alone
    tokens = Scheme.parse("w:int8r/channel a:uint8/token dynamic smoothed")
    assert tokens == INT8_TOKENS_SMOOTHED and Scheme.parse(str(tokens)) == tokens
    assert (tokens.smoothed, tokens.dynamic, tokens.is_static) == (True, True, False)
    for text in ("w:int8r/channel a:uint8/token smoothed dynamic", "w:int8r/channel smoothed smoothed"):
        with pytest.raises(SchemeError, match="is not a scheme"):
            Scheme.parse(text)


def test_a_cast_is_of_both_operands() -> None:
    for weight, activation in ((BF16_ELEMENT, None), (BF16_ELEMENT, FP16_ELEMENT), (BF16_ELEMENT, UINT8_TENSOR)):
        with pytest.raises(SchemeError, match="same format for both"):
            Scheme(weight, activation)
    with pytest.raises(SchemeError, match="same format for both"):
        Scheme(INT8_CHANNEL, BF16_ELEMENT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bf17",
        "FP32",
        "bf16 dynamic",
        "dynamic",
        "w:int8r/channel dynamic",
        "dynamic w:int8/channel a:uint8/tensor",
        "a:uint8/tensor",
        "w:bf16",
        "a:uint8/tensor a:uint8/tensor",
        "w:int8/channel w:int8/tensor a:uint8/tensor",
        "w:int8/channel a:uint8/tensor x",
        "w:int8/channel a:uint8/tensor b:int8/tensor",
        "w:int8 a:uint8",
        "w:int8/row a:uint8/tensor",
        "w:int99/channel a:uint8/tensor",
        "w:int8/channel/tensor a:uint8/tensor",
    ],
)
def test_what_is_no_scheme_is_refused(text: str) -> None:
    said = (
        r"choose fp32|choose tensor, channel|for example|2 to 16|a scale|says nothing about scales|only an activation"
    )
    with pytest.raises(SchemeError, match=said):
        Scheme.parse(text)
