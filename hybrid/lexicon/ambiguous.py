"""Relations that English does not keep apart, so that one's value is a fair answer to the other's question."""

from __future__ import annotations

AMBIGUOUS = (
    {"P17", "P131", "P276", "P30", "subregion"},
    {"P103", "P1412"},
    {"P407", "P364"},
    {"P106", "P39", "P101"},
    {"P106", "P641", "P413"},
    {"P176", "P178", "P1056"},
    {"P31", "P279", "P361"},
    {"P171", "P31", "P279"},
    {"P35", "P6", "monarch"},
    {"P495", "P740"},
    {"P19", "P740"},
    {"P463", "P361", "P54", "P118"},
    {"P127", "P749"},
    {"P569", "P571", "P577"},
    {"P138", "P361"},
    {"P1001", "P17"},
    {"P740", "P571"},
    {"P169", "P488", "manager"},
    {"P178", "P61", "P170", "P50", "P112"},
    {"P175", "P86", "P162", "P57", "P58", "P161"},
    {"diet", "habitat"},
    {"party", "regiment", "P463"}, {"regiment", "P108"}, {"military_rank", "P39"}, {"eye_color", "P462"},
    {"festival_headliner", "P161", "P175"}, {"archipelago", "P276", "P361", "P131"}, {"victor_commander", "P1346"},
    {"filming_place", "P276"}, {"story_setting", "P276"}, {"premiere_city", "P276"}, {"museum", "P276", "P127"}, {"home_port", "P276", "P17"},
    {"film_budget", "price"}, {"disease_carrier", "P828"}, {"editor_in_chief", "manager"}, {"translator", "P50"}, {"fuel", "game_engine", "P306"},
    {"film_editor", "editor_in_chief"}, {"protagonist", "P921", "P161"}, {"predecessor", "heir", "P22"}, {"predecessor", "P155"}, {"heir", "P156"}, {"crime", "sentence", "prison"},
)  # fmt: skip
"""Ids of relations whose phrasings may ask for each other's value."""


def ambiguous(a: str, b: str) -> bool:
    """Whether a phrasing of one relation may fairly be answered with the other's value."""
    return a == b or any(a in group and b in group for group in AMBIGUOUS)
