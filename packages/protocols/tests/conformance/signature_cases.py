"""Signatures, and whether they fit: a type checker and `check_conformance` have to give the same verdict.

Each case is a slot's call and a candidate's, both as the parameters of a `def` without `self`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """One slot, one candidate, one verdict."""

    name: str
    slot: str
    given: str
    fits: bool


CASES = [
    Case(name="same_keyword", slot="*, a: int", given="*, a: int", fits=True),
    Case(name="positional_or_keyword_takes_keyword", slot="*, a: int", given="a: int", fits=True),
    Case(name="keyword_order_is_free", slot="*, a: int, b: int", given="b: int, a: int", fits=True),
    Case(name="keyword_missing", slot="*, a: int, b: int", given="*, a: int", fits=False),
    Case(name="kwargs_take_keywords", slot="*, a: int, b: int", given="**kwargs: int", fits=True),
    Case(name="args_take_no_keyword", slot="*, a: int", given="*args: int", fits=False),
    Case(name="positional_only_takes_no_keyword", slot="*, a: int", given="a: int, /", fits=False),
    Case(name="wrong_keyword_name", slot="*, a: int", given="*, b: int", fits=False),
    Case(name="extra_with_default", slot="*, a: int", given="*, a: int, b: int = 0", fits=True),
    Case(name="extra_required_keyword", slot="*, a: int", given="*, a: int, b: int", fits=False),
    Case(name="extra_required_position", slot="a: int, /", given="a: int, b: int, /", fits=False),
    Case(name="optional_stays_optional", slot="*, a: int = 0", given="*, a: int = 1", fits=True),
    Case(name="optional_became_required", slot="*, a: int = 0", given="*, a: int", fits=False),
    Case(name="required_became_optional", slot="*, a: int", given="*, a: int = 0", fits=True),
    Case(name="position_names_are_free", slot="a: int, /", given="b: int", fits=True),
    Case(name="position_to_keyword_only", slot="a: int, /", given="*, a: int", fits=False),
    Case(name="position_missing", slot="a: int, b: int, /", given="a: int", fits=False),
    Case(name="args_take_positions", slot="a: int, b: int, /", given="*args: int", fits=True),
    Case(name="kwargs_take_no_position", slot="a: int, /", given="**kwargs: int", fits=False),
    Case(name="optional_position_became_required", slot="a: int = 0, /", given="a: int, /", fits=False),
    Case(name="both_ways_needs_the_name", slot="a: int", given="b: int", fits=False),
    Case(name="both_ways_refuses_positional_only", slot="a: int", given="a: int, /", fits=False),
    Case(name="both_ways_same", slot="a: int, b: int", given="a: int, b: int", fits=True),
    Case(name="both_ways_swapped", slot="a: int, b: int", given="b: int, a: int", fits=False),
    Case(name="everything", slot="a: int, /, *, b: int", given="*args: int, **kwargs: int", fits=True),
    Case(name="mixed", slot="a: int, /, *, b: int = 0", given="x: int, b: int = 0, c: int = 0", fits=True),
    Case(name="slot_takes_args", slot="*args: int", given="a: int = 0", fits=False),
    Case(name="slot_takes_kwargs", slot="**kwargs: int", given="*, a: int = 0", fits=False),
    Case(name="keyword_met_by_position", slot="x: int, /, *, a: int", given="a: int, x: int = 0", fits=False),
    Case(name="nothing_to_nothing", slot="", given="", fits=True),
    Case(name="nothing_passed_to_default", slot="", given="a: int = 0", fits=True),
    Case(name="nothing_passed_to_required", slot="", given="a: int", fits=False),
    Case(name="nothing_passed_to_required_keyword", slot="", given="*, a: int", fits=False),
    Case(name="nothing_passed_to_variadic", slot="", given="*args: int, **kwargs: int", fits=True),
    Case(name="something_passed_to_nothing", slot="*, a: int", given="", fits=False),
    Case(name="position_passed_to_nothing", slot="a: int, /", given="", fits=False),
    Case(name="optional_keyword_missing", slot="*, a: int = 0", given="", fits=False),
    Case(name="optional_keyword_to_kwargs", slot="*, a: int = 0", given="**kwargs: int", fits=True),
    Case(name="optional_position_missing", slot="a: int = 0, /", given="", fits=False),
    Case(name="optional_position_to_args", slot="a: int = 0, /", given="*args: int", fits=True),
    Case(name="optional_position_kept", slot="a: int = 0, /", given="b: int = 1, /", fits=True),
    Case(name="both_ways_to_args_alone", slot="a: int", given="*args: int", fits=False),
    Case(name="both_ways_to_kwargs_alone", slot="a: int", given="**kwargs: int", fits=False),
    Case(name="both_ways_to_both", slot="a: int", given="*args: int, **kwargs: int", fits=True),
    Case(name="both_ways_to_keyword_only", slot="a: int", given="*, a: int", fits=False),
    Case(name="both_ways_optional", slot="a: int = 0", given="a: int = 0", fits=True),
    Case(name="both_ways_optional_became_required", slot="a: int = 0", given="a: int", fits=False),
    Case(name="position_then_keyword_given_both_ways", slot="a: int, /, *, b: int", given="a: int, b: int", fits=True),
    Case(name="keyword_before_the_position_needed", slot="a: int, /, *, b: int", given="b: int, a: int", fits=False),
    Case(name="args_then_keyword", slot="a: int, b: int, /, *, c: int", given="*args: int, c: int", fits=True),
    Case(name="args_then_wrong_keyword", slot="a: int, /, *, c: int", given="*args: int, d: int", fits=False),
    Case(
        name="position_then_args_and_kwargs", slot="a: int, /, *, b: int", given="x: int, *r: int, **k: int", fits=True
    ),
    Case(
        name="too_many_positions_with_keyword_only", slot="a: int, b: int, /", given="a: int, *, b: int = 0", fits=False
    ),
    Case(name="slot_takes_args_given_args", slot="*args: int", given="*args: int", fits=True),
    Case(name="slot_takes_kwargs_given_kwargs", slot="**kwargs: int", given="**kwargs: int", fits=True),
    Case(name="slot_takes_kwargs_given_more", slot="**kwargs: int", given="*, a: int = 0, **kwargs: int", fits=True),
    Case(
        name="positional_only_name_again_as_keyword",
        slot="x: int, /, *, a: int",
        given="a: int, /, **k: int",
        fits=True,
    ),
]
