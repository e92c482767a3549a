"""Settings: what fits is converted, and what does not fit ends in one line."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from gen1_jax.errors import UserError
from gen1_jax.settings import check, closest, describe, list_kinds, parse, required, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = setting(1e-3, "highest rate", low=0)
    size: tuple[int, int] = setting((4, 4), "height and width", low=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    folder: str | tuple[str, ...] = required("where the data are")
    steps: int = setting(10, "how long", low=1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "compute type")
    limit: int | None = setting(None, "at most so many")
    label: str | None = setting(None, "what it is called")
    anything: Any = setting(None, "anything")
    on: bool = setting(False, "whether")
    sizes: tuple[tuple[int, int], ...] = setting((), "sizes")
    weights: Mapping[str, float] = setting({}, "weights")
    free: Mapping[str, Any] = setting({}, "anything")
    levels: tuple[int, ...] = setting((0,), "levels")
    names: tuple[str, ...] = setting((), "names")
    models: Mapping[Literal["vae", "clip"], str] = setting({}, "models")
    inner: Inner = setting(Inner(), "nested")


def test_values_are_converted_and_defaults_fill_the_rest():
    values = {
        **{"folder": ["a", "b"], "steps": 1e3, "limit": 3, "sizes": [[1, 2]]},
        **{"weights": {"a": 1}, "free": {"x": [1]}, "inner": {"rate": 1}},
    }
    made = check(Outer, values)
    assert made.folder == ("a", "b") and made.steps == 1000 and type(made.steps) is int
    assert made.sizes == ((1, 2),) and made.weights == {"a": 1.0} and made.free == {"x": [1]}
    assert made.inner == Inner(rate=1.0) and type(made.inner.rate) is float
    assert made.dtype == "float32" and made.limit == 3


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"step": 3}, "mine: no key 'step'; did you mean 'steps'?"),
        ({"zzzz": 3}, "mine: no key 'zzzz'"),
        ({"inner": {"rat": 3}}, "mine: no key 'inner.rat'; did you mean 'inner.rate'?"),
        ({"inner": {"zzzz": 3}}, "mine: no key 'inner.zzzz'; accepted: inner.rate, inner.size"),
        ({"steps": "x"}, "mine: steps is 'x' (text); a whole number of 1 or more is accepted"),
        ({"steps": 1.5}, "mine: steps is 1.5 (a number); a whole number of 1 or more is accepted"),
        ({"steps": True}, "mine: steps is True (True or False); a whole number of 1 or more is"),
        ({"steps": 0}, "mine: steps is 0; a whole number of 1 or more is accepted"),
        ({"dtype": "fp8"}, "mine: dtype is 'fp8'; 'float32' or 'bfloat16' is accepted"),
        ({"dtype": 8}, "mine: dtype is 8 (a whole number); 'float32' or 'bfloat16' is accepted"),
        ({"limit": "x"}, "mine: limit is 'x' (text); a whole number, or None is accepted"),
        ({"on": 1}, "mine: on is 1 (a whole number); True or False is accepted"),
        (
            {"sizes": (1, 2)},
            "mine: sizes is (1, 2) (a list); a list of lists of 2 whole numbers is a",
        ),
        ({"inner": 3}, "mine: inner is 3 (a whole number); a mapping is accepted"),
        (
            {"inner": {"size": (0, 4)}},
            "mine: inner.size is (0, 4); a list of 2 whole numbers of 1 or mo",
        ),
        ({"inner": {"rate": float("nan")}}, "mine: inner.rate is nan; a number of 0 or more is"),
        ({"weights": {"a": "x"}}, "mine: weights.a is 'x' (text); a number is accepted"),
        ({"models": {"vea": "x"}}, "mine: no key 'models.vea'; did you mean 'models.vae'?"),
        ({"models": {"unet": "x"}}, "mine: no key 'models.unet'; accepted: models.vae, models.cl"),
        ({"folder": 3}, "mine: folder is 3 (a whole number); text or a list of texts is"),
    ],
)
def test_what_does_not_fit_ends_in_one_line(values, line):
    with pytest.raises(UserError) as caught:
        check(Outer, {"folder": "a", **values}, "mine")
    assert str(caught.value).startswith(line)


def test_a_required_setting_says_what_it_is():
    with pytest.raises(UserError, match="data.folder is missing; .* accepted: where the data are"):
        check(Outer, {}, prefix="data.")


def test_each_setting_is_described():
    found = {row.name: row for row in describe(Outer)}
    assert found["folder"].is_required and found["folder"].doc == "where the data are"
    assert found["inner.rate"][1:4] == ("a number of 0 or more", 1e-3, "highest rate")
    assert found["free"].default == {}
    assert found["inner"].is_group and not found["free"].is_group
    kinds = list_kinds(Outer)
    assert kinds["inner.rate"] is float and kinds["models.vae"] is str and "inner" not in kinds


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "7", 7),
        ("steps", "1e4", 10_000),
        ("on", "true", True),
        ("limit", "none", None),
        ("label", "none", None),
        ("label", "true", "true"),
        ("anything", "true", True),
        ("dtype", "bfloat16", "bfloat16"),
        ("folder", "2024", "2024"),
        ("folder", "a,b", "a,b"),
        ("folder", "('a', 'b')", ("a", "b")),
        ("sizes", "((1, 2), (3, 4))", ((1, 2), (3, 4))),
        ("levels", "0,3", (0, 3)),
        ("levels", "3", (3,)),
        ("names", "x, y", ("x", "y")),
    ],
)
def test_text_is_read_as_its_type_wants_it(key, text, value):
    assert parse(list_kinds(Outer)[key], text, key) == value


def test_text_that_is_no_such_value_is_refused():
    with pytest.raises(UserError, match=r"steps is 'x' \(text\); a whole number is accepted"):
        parse(int, "x", "steps")


def test_the_nearest_name_is_guessed():
    names = ("num_steps", "optimizer.learning_rate", "optimizer.b1")
    assert closest("steps", names) == "; did you mean 'num_steps'?"
    assert closest("optimizer.rate", names) == "; did you mean 'optimizer.learning_rate'?"
    assert closest("b1", names) == "; did you mean 'optimizer.b1'?"
    assert closest("xyz", names) == ""
