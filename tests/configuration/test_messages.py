"""Words that the errors of all layers share."""

from plait.configuration.messages import suggest, suggest_nearest, to_one_line


def test_the_nearest_name_or_else_all_names() -> None:
    assert suggest("hiden_size", {"hidden_size": 1, "vocab_size": 2}) == "; did you mean 'hidden_size'?"
    assert suggest("zzz", ("early", "late")) == "; choose from early, late"
    assert suggest(3, iter(["early"])) == "; choose from early"
    assert suggest_nearest("zzz", ("early", "late")) == ""


def test_an_error_on_one_line() -> None:
    assert to_one_line(ValueError("a file\n   is missing")) == "a file is missing"
