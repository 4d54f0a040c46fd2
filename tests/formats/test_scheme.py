"""The text of schemes: what is accepted, what is refused, and that the refusal names the choices."""

import pytest

from fewbits.errors import SchemeError
from fewbits.formats.scheme import FP32, INT8_CHANNEL, INT8_STATIC, UINT8_TENSOR, Scheme


def test_short_names() -> None:
    assert Scheme.parse("fp32") == FP32
    assert Scheme.parse("int8") == INT8_STATIC
    assert str(INT8_STATIC) == "w:int8r/channel a:uint8/tensor"


def test_the_order_of_operands_in_the_text_is_free() -> None:
    assert Scheme.parse("a:uint8/tensor w:int8r/channel") == INT8_STATIC


def test_only_a_scheme_without_formats_is_float() -> None:
    assert FP32.is_float
    assert not INT8_STATIC.is_float


def test_one_operand_alone_is_no_scheme() -> None:
    with pytest.raises(SchemeError, match="both operands"):
        Scheme(INT8_CHANNEL, None)
    with pytest.raises(SchemeError, match="both operands"):
        Scheme(None, UINT8_TENSOR)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bf17",
        "FP32",
        "w:int8/channel",
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
    with pytest.raises(
        SchemeError, match=r"choose fp32|choose tensor, channel|for example|2 to 16|a scale|says nothing about scales"
    ):
        Scheme.parse(text)
