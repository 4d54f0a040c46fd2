from fewbits.sensitivity.table import Harm, SensitivityTable


def test_values_are_the_harms_without_their_errors() -> None:
    table = SensitivityTable({"a": {"bf16": Harm(0.5, 0.1), "int8": Harm(2.0)}, "b": {}})
    assert table.values == {"a": {"bf16": 0.5, "int8": 2.0}, "b": {}}
